package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/dnslab"
	"github.com/portmon/portmon/netnstest"
)

// Who is in a scene beside the server, 192.0.2.2 and 2001:db8::2, whose gateway
// is the lab's internet, 192.0.2.1. The administrator and the stranger are
// hosts of their own behind it; the bystander is an address of the internet.
var (
	adminAddr4    = netip.MustParseAddr("203.0.113.1")
	adminAddr6    = netip.MustParseAddr("2001:db8:77::1")
	strangerAddr  = netip.MustParseAddr("198.51.100.1")
	bystanderAddr = netip.MustParseAddr("198.18.200.1")
)

// scene is a server with sshd, and the people around it.
type scene struct {
	*testing.T
	*lab.Lab
	admin, stranger *netnstest.Host
	dir             string // has the server's /etc, /var/lib and files of the test
	bin             string // folder of portmon
	bystander       net.Conn
	sshd, watcher   *exec.Cmd
	names           *dnslab.Server
}

// oneUser reports whether this is a user namespace of one user, as tests without
// privilege have it.
func oneUser() bool {
	users, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.HasSuffix(string(users), " 1\n")
}

// newTools returns a folder of what all scenes share: portmon, and the keys of both
// sides. It passes over the test where no real SSH server can run.
func newTools(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"sshd", "ssh", "nft"} {
		lab.Program(t, name)
	}
	if oneUser() {
		t.Skip("one user: not tested: logins by SSH, for which sshd changes its user")
	}
	for _, key := range []string{"host_key", "key"} {
		if out, err := exec.Command(lab.Program(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// A copy, because portmon may start itself anew under the name of its file.
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "portmon"), self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// newScene makes a scene with a configuration. Nothing of portmon runs yet.
func newScene(t *testing.T, tools, conf string) *scene {
	t.Helper()
	s := &scene{T: t, Lab: lab.New(t), dir: lab.ShortDir(t), bin: tools}
	s.admin, s.stranger = netnstest.NewHost(t, "admin"), netnstest.NewHost(t, "stranger")
	for host, networks := range map[*netnstest.Host][]string{
		s.admin:    {"203.0.113.0/24", "2001:db8:77::/64"},
		s.stranger: {"198.51.100.0/24", "2001:db8:66::/64"},
	} {
		link := netnstest.Connect(t, host, s.Internet, networks...)
		host.DefaultVia(link.B.IPv4, link.B.IPv6)
	}
	s.Internet.Forward()
	s.Internet.AddAddr("lo", bystanderAddr.String()+"/32")
	s.Host.Listen("tcp", fmt.Sprintf("[::]:%d", lab.OpenTCP))

	for _, dir := range []string{"etc/pam.d", "etc/portmon", "lib"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"passwd", "group", "nsswitch.conf", "ld.so.cache", "shells"} {
		if text, err := os.ReadFile("/etc/" + name); err == nil {
			s.write("etc/"+name, string(text))
		}
	}
	s.write("etc/machine-id", randomID()+"\n")
	s.newBootID()
	s.configure(conf)
	s.write("etc/pam.d/sshd", pam)
	s.write("sshd_config", fmt.Sprintf(`Port 22
HostKey %[1]s/host_key
AuthorizedKeysFile %[1]s/key.pub
PidFile none
UsePAM yes
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
LogLevel ERROR
ClientAliveInterval 0
MaxStartups 100
SetEnv PATH=%[1]s:%[2]s %[3]s=%[4]s %[5]s=%[6]s TZ=UTC
`, tools, os.Getenv("PATH"), homeVariable, os.Getenv(homeVariable), raceVariable, os.Getenv(raceVariable)))
	s.startSSHD()
	return s
}

// pam lets in whoever has the key.
const pam = "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"

func randomID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// write writes a file of the scene, by a path below its folder.
func (s *scene) write(name, text string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

// configure writes /etc/portmon/portmon.toml.
func (s *scene) configure(text string) { s.Helper(); s.write("etc/portmon/portmon.toml", text) }

// newBootID has programs that are started from now on see another boot.
func (s *scene) newBootID() {
	s.Helper()
	id := randomID()
	s.write("boot_id", strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")+"\n")
}

// ownFiles starts a program with the server's files in place of those of the
// machine, and without what sshd writes elsewhere: who is logged in.
const ownFiles = `set -e
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
mount -t tmpfs none /var/log
mount --bind "$SCENE/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$SCENE/lib" /var/lib
mount --bind "$SCENE/etc" /etc
exec "$@"
`

// command returns a command that is to run on the server, as its own programs
// do: not by SSH.
func (s *scene) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", append([]string{"-c", ownFiles, "sh"}, args...)...)
	cmd.Env = []string{
		"SCENE=" + s.dir, "PATH=" + s.bin + ":" + os.Getenv("PATH"), homeVariable + "=" + os.Getenv(homeVariable),
		raceVariable + "=" + os.Getenv(raceVariable), "TZ=UTC",
	}
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Setsid: true}
	return cmd
}

// start starts a command on a host, and ends it when the test ends. What it
// writes goes to a file of the scene.
func (s *scene) start(h *netnstest.Host, cmd *exec.Cmd, log string) *exec.Cmd {
	s.Helper()
	out, err := os.OpenFile(filepath.Join(s.dir, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.Fatal(err)
	}
	defer out.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	h.Do(func() { err = cmd.Start() })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		s.kill(cmd)
		if text, err := os.ReadFile(filepath.Join(s.dir, log)); err == nil && s.Failed() && len(text) > 0 {
			s.Logf("%s:\n%s", log, text[max(0, len(text)-3000):])
		}
	})
	return cmd
}

// kill ends a process without a word, as a lack of memory does, and may be
// called again.
func (s *scene) kill(cmd *exec.Cmd) {
	if cmd != nil && cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func (s *scene) startSSHD() {
	s.Helper()
	s.sshd = s.start(s.Host, s.command(lab.Program(s, "sshd"), "-D", "-e", "-f", filepath.Join(s.dir, "sshd_config")), "sshd.log")
	s.awaitSSH(s.To(adminAddr4, 22))
}

// awaitSSH returns when something listens at a port of the server. It asks
// from the server itself, which no table forbids.
func (s *scene) awaitSSH(at netip.AddrPort) {
	s.Helper()
	lab.Await(s, "sshd listens", func() (listens bool) {
		s.Host.Do(func() {
			conn, err := net.DialTimeout("tcp", at.String(), lab.Patience)
			if listens = err == nil; listens {
				conn.Close()
			}
		})
		return listens
	})
}

// startWatcher starts `portmon watch`, and returns when it is ready.
func (s *scene) startWatcher() {
	s.Helper()
	socket := filepath.Join(s.dir, "notify")
	os.Remove(socket)
	notices, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		s.Fatal(err)
	}
	defer notices.Close()
	cmd := s.command("portmon", "watch")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
	s.watcher = s.start(s.Host, cmd, "watch.log")
	_ = notices.SetReadDeadline(time.Now().Add(lab.LongPatience)) // no error on an open socket
	for b := make([]byte, 4096); ; {
		n, _, err := notices.ReadFrom(b)
		if err != nil {
			s.Fatalf("the watcher is not ready: %v", err)
		}
		if bytes.Contains(b[:n], []byte("READY=1")) {
			return
		}
	}
}

// try runs a command on the server, not by SSH.
func (s *scene) try(args ...string) (out string, code int) {
	s.Helper()
	cmd := s.command(args...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	var err error
	s.Host.Do(func() { err = cmd.Run() })
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// does is try for what must succeed.
func (s *scene) does(args ...string) string {
	s.Helper()
	return s.exits(exitDone, args...)
}

// exits is try for what must end with an exit code.
func (s *scene) exits(want int, args ...string) string {
	s.Helper()
	out, code := s.try(args...)
	if code != want {
		s.Fatalf("%s: exit code %d, want %d\n%s", strings.Join(args, " "), code, want, out)
	}
	return out
}

// sshArgs are those of an SSH client that logs in at an address of the server
// of the same family as src.
func (s *scene) sshArgs(src netip.Addr, args ...string) []string {
	options := []string{"-F", "none", "-i", filepath.Join(s.bin, "key")}
	for _, o := range []string{
		"BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null",
		"LogLevel=ERROR", "IdentitiesOnly=yes", "ConnectTimeout=20", "BindAddress=" + src.String(),
		"KexAlgorithms=curve25519-sha256", // what withstands quantum computers took most of the CPU
	} {
		options = append(options, "-o", o)
	}
	return append(append(options, args...), "root@"+s.To(src, 22).Addr().String())
}

// login logs in by SSH from an address of the administrator, runs a shell
// command, and returns what it writes.
func (s *scene) login(src netip.Addr, command string) (out string, err error) {
	s.Helper()
	return lab.Run(s.admin, "", lab.Program(s, "ssh"), append(s.sshArgs(src), command)...)
}

// mustLogin is login for what must succeed.
func (s *scene) mustLogin(src netip.Addr, command string) string {
	s.Helper()
	out, err := s.login(src, command)
	if err != nil {
		s.Fatalf("log in from %v for %s: %v", src, command, err)
	}
	return out
}

// shell is an SSH session that is open.
type shell struct {
	s   *scene
	cmd *exec.Cmd
	in  io.WriteCloser

	mu  sync.Mutex
	out []byte
}

// open opens a session of the administrator, on a terminal or not.
func (s *scene) open(src netip.Addr, terminal bool) *shell {
	s.Helper()
	var args []string
	if terminal {
		args = []string{"-tt"}
	}
	sh := &shell{s: s, cmd: exec.Command(lab.Program(s, "ssh"), append(s.sshArgs(src, args...), "exec sh")...)}
	in, err := sh.cmd.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	sh.in, sh.cmd.Stdout = in, sh
	s.start(s.admin, sh.cmd, "ssh.log")
	sh.run("true")
	return sh
}

// Write takes what the session writes.
func (sh *shell) Write(b []byte) (int, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.out = append(sh.out, b...)
	return len(b), nil
}

// types sends a line to the session.
func (sh *shell) types(line string) {
	sh.s.Helper()
	if _, err := io.WriteString(sh.in, line+"\n"); err != nil {
		sh.s.Fatal(err)
	}
}

// await returns what the session has written since it was last asked, as soon
// as that matches.
func (sh *shell) await(pattern string) (out string) {
	sh.s.Helper()
	re := regexp.MustCompile(pattern)
	lab.Await(sh.s, "the session says "+pattern, func() bool {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		at := re.FindIndex(sh.out)
		if at != nil {
			out, sh.out = string(sh.out[:at[1]]), sh.out[at[1]:]
		}
		return at != nil
	})
	return out
}

// run has the session run a command, and returns what that writes, with its
// exit code at the end.
func (sh *shell) run(command string) string {
	sh.s.Helper()
	sh.types(command + "; echo exit-$?")
	return sh.await(`exit-\d+`)
}

// reachable reports whether the server answers the administrator's SYN to its
// SSH port. Unlike a login, that tells at once.
func (s *scene) reachable(src netip.Addr) bool {
	s.Helper()
	return s.admin.Probe(netnstest.SYN(src, s.To(src, 22))).Kind == netnstest.AnswerSYNACK
}

// locked fails the test if the administrator can get in.
func (s *scene) locked(src netip.Addr) {
	s.Helper()
	if s.reachable(src) {
		s.Errorf("%v can connect: this is no accident", src)
	}
}

// awaitLogin returns when a new session works, and fails the test if that takes
// too long.
func (s *scene) awaitLogin(src netip.Addr, since time.Time) time.Duration {
	s.Helper()
	var err error
	for time.Since(since) < tooLong {
		if !s.reachable(src) {
			time.Sleep(20 * time.Millisecond) // as somebody does who is in a hurry
		} else if _, err = s.login(src, "true"); err == nil {
			return time.Since(since)
		}
	}
	s.Errorf("no new session within %v: %v", tooLong, err)
	return time.Since(since)
}
