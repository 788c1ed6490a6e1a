package ruleset

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
)

// daemon is a real program that listens on the trap port, of both families.
type daemon struct {
	l      *fixture
	args   []string
	cmd    *exec.Cmd
	stderr *os.File
}

// daemons make the programs, with their files in a directory.
var daemons = map[string]func(t *testing.T, dir string) (args []string){
	"sshd": func(t *testing.T, dir string) []string {
		sshd, keygen := lab.Program(t, "sshd"), lab.Program(t, "ssh-keygen")
		key, config := filepath.Join(dir, "key"), filepath.Join(dir, "config")
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		write(t, config, fmt.Sprintf("Port %d\nHostKey %s\nPidFile none\nUsePAM no\nLogLevel ERROR\n", lab.TrapTCP, key))
		// It wants an empty directory that the system makes at boot.
		const prepare = `mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "$0" "$@"`
		return []string{"/bin/sh", "-c", prepare, sshd, "-D", "-e", "-f", config}
	},
	"nginx": func(t *testing.T, dir string) []string {
		config := filepath.Join(dir, "config")
		write(t, config, fmt.Sprintf(`daemon off; user root; worker_processes 1; pid %[1]s/pid; error_log stderr emerg;
events { }
http {
	access_log off;
	client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
	server { listen %[2]d; listen [::]:%[2]d; }
}
`, dir, lab.TrapTCP))
		return []string{lab.Program(t, "nginx"), "-e", "stderr", "-p", dir, "-c", config}
	},
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) start() {
	d.l.T.Helper()
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Stderr = d.stderr // a file, so that nothing waits for what a session keeps open
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Setpgid: true}
	var err error
	d.l.Host.Do(func() { err = d.cmd.Start() })
	if err != nil {
		d.l.T.Fatal(err)
	}
}

// stop ends the program, and what it has started.
func (d *daemon) stop() {
	d.l.T.Helper()
	if d.cmd == nil {
		return
	}
	err := errors.Join(d.cmd.Process.Signal(syscall.SIGTERM), d.wait())
	d.cmd = nil
	if err != nil {
		d.l.T.Errorf("%v: %v\n%s", d.args, err, d.said())
	}
}

// said returns what the program has written.
func (d *daemon) said() []byte {
	text, _ := os.ReadFile(d.stderr.Name()) // it is for a message
	return text
}

func (d *daemon) wait() error {
	ended := make(chan error, 1)
	pid := d.cmd.Process.Pid
	go func() { ended <- d.cmd.Wait() }()
	var exit *exec.ExitError
	select {
	case err := <-ended:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // sessions
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
			return nil
		}
		if errors.As(err, &exit) && exit.ExitCode() == 255 { // what sshd says of the signal
			return nil
		}
		return err
	case <-time.After(lab.Patience):
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		return errors.Join(errors.New("it did not end when told to"), <-ended)
	}
}

// client connects every 20 ms, and counts what becomes of it.
type client struct {
	to                        netip.AddrPort
	connected, refused, other atomic.Int64
	last                      atomic.Value // the other error
}

func (c *client) run(l *fixture, ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var conn net.Conn
		var err error
		dialer := net.Dialer{Timeout: lab.Patience / 4} // the kernel tries again after a second
		l.Internet.Do(func() { conn, err = dialer.DialContext(ctx, "tcp", c.to.String()) })
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return
		case err == nil:
			_ = conn.Close()
			c.connected.Add(1)
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET): // an answer, in any case
			c.refused.Add(1)
		default:
			c.last.Store(err)
			c.other.Add(1)
		}
	}
}

// restart restarts a program as often, while a client of each family connects
// every 20 ms: each of them finds it running, and not running, each time. It
// ends early if stop says so.
func (l *fixture) restart(args []string, times int, stop func(clients []*client) bool) (clients []*client, done int) {
	l.T.Helper()
	stderr, err := os.Create(filepath.Join(l.T.TempDir(), "stderr"))
	if err != nil {
		l.T.Fatal(err)
	}
	defer stderr.Close()
	d := &daemon{l: l, args: args, stderr: stderr}
	defer d.stop()
	ctx, cancel := context.WithCancel(l.T.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	d.start() // before there are clients: that of a program which never ran offends
	for _, src := range l.both() {
		c := &client{to: l.To(src, lab.TrapTCP)}
		clients = append(clients, c)
		lab.Await(l.T, "the program to listen", func() bool { return l.listening(c.to) })
		running.Go(func() { c.run(l, ctx) })
	}
	all := func(count func(c *client) *atomic.Int64) {
		before := make([]int64, len(clients))
		for i, c := range clients {
			before[i] = count(c).Load()
		}
		lab.Await(l.T, "all clients to have come", func() bool {
			if stop(clients) {
				return true
			}
			for i, c := range clients {
				if count(c).Load() == before[i] {
					return false
				}
			}
			return true
		})
	}
	for ; done < times && !stop(clients); done++ {
		all(func(c *client) *atomic.Int64 { return &c.connected })
		d.stop()
		all(func(c *client) *atomic.Int64 { return &c.refused })
		d.start()
	}
	return clients, done
}

// listening reports whether somebody takes connections of the host itself.
func (l *fixture) listening(to netip.AddrPort) bool {
	var conn net.Conn
	var err error
	l.Host.Do(func() { conn, err = net.DialTimeout("tcp", to.String(), time.Second) })
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// TestRestarts restarts real programs on a trap port, a hundred times.
func TestRestarts(t *testing.T) {
	t.Parallel()
	for name, make := range daemons {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := make(t, t.TempDir())
			t.Run("with a grace", func(t *testing.T) {
				t.Parallel()
				spec := trapSpec()
				spec.Grace = 12 * time.Second // a busy machine takes a while to start a program
				l := newTrap(t, spec)
				l.armed()
				bystanders := l.both()
				lost := func(clients []*client) bool {
					return clients[0].other.Load()+clients[len(clients)-1].other.Load() > 0
				}
				clients, done := l.restart(args, 100, lost)
				l.Served(bystanders...)
				l.wantBans()
				for _, c := range clients {
					t.Logf("%d restarts: a client of %v was served %d times and refused %d times",
						done, c.to, c.connected.Load(), c.refused.Load())
					if c.other.Load() > 0 {
						t.Errorf("a client of %v got no answer: %v", c.to, c.last.Load())
					}
				}
				// The port is a trap, all the same.
				lab.Await(t, "the grace to end", func() bool { return l.size("grace_tcp4")+l.size("grace_tcp6") == 0 })
				for _, src := range l.both() {
					l.Offend(src)
					l.wantStanding(src, 1, CauseTrap)
				}
			})
			t.Run("without", func(t *testing.T) {
				t.Parallel()
				l := newTrap(t, trapSpec())
				bystanders := l.both()
				l.restart(args, 100, func([]*client) bool { return len(l.bans()) == 2 })
				l.wantBans(l.Link.A.IPv4.String(), l.Link.A.IPv6.String())
				l.Served(bystanders...)
			})
		})
	}
}
