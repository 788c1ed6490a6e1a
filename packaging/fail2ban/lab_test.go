package fail2ban

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// fixture is a lab whose host serves, and a fail2ban that is the host's own.
type fixture struct {
	*lab.Lab
	dir    string
	server *exec.Cmd
	exited chan struct{} // is closed when the server has ended
}

const filter = `[Definition]
failregex = ^ knock from <ADDR>$
datepattern = ^EPOCH
`

const settings = `[Definition]
loglevel = INFO
logtarget = %[1]s/fail2ban.log
syslogsocket = auto
socket = %[1]s/socket
pidfile = %[1]s/pid
dbfile = %[1]s/fail2ban.sqlite3
dbmaxmatches = 10
dbpurgeage = 1d
allowipv6 = yes
`

const jail = `[door]
enabled = yes
backend = polling
usedns = no
filter = door
logpath = %s/door.log
maxretry = 1
findtime = 10m
ignoreip =
ignoreself = no
bantime = 10m
action = portmon[portmon="%s --config %s/portmon.toml", patience=60]
`

// newLab makes a lab with a table, and a fail2ban that does not run. Its jail, door, has further lines.
func newLab(t *testing.T, lines string) *fixture {
	t.Parallel()
	for _, name := range []string{"fail2ban-server", "fail2ban-client", "fail2ban-python"} {
		lab.Program(t, name)
	}
	dir := lab.ShortDir(t)
	l := &fixture{Lab: lab.New(t), dir: dir}
	l.Serve()
	action, err := os.ReadFile("portmon.conf")
	if err != nil {
		t.Fatal(err)
	}
	l.write("portmon.toml", l.settings(""))
	l.write("fail2ban.conf", fmt.Sprintf(settings, dir))
	l.write("jail.conf", fmt.Sprintf(jail, dir, l.program(), dir))
	l.write("jail.local", "[door]\n"+lines)
	l.write("filter.d/door.conf", filter)
	l.write("action.d/portmon.conf", string(action))
	l.write("door.log", "")
	l.portmon("apply")
	return l
}

// settings returns a configuration of portmon's with further lines, whose traps are armed from the start.
func (l *fixture) settings(lines string) string {
	return fmt.Sprintf("%s\n[trap]\ngrace = \"0s\"\n[watch]\nstate = %q\n", lines, filepath.Join(l.dir, "state.jsonl"))
}

func (l *fixture) write(name, text string) {
	l.T.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.T.Fatal(err)
	}
}

// command returns a command on the host, once it has started.
func (l *fixture) command(start func(*exec.Cmd) error, name string, args ...string) *exec.Cmd {
	l.T.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "LC_ALL=C"}
	var err error
	l.Host.Do(func() { err = start(cmd) })
	if err != nil {
		l.T.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return cmd
}

func (l *fixture) program() string {
	l.T.Helper()
	program, err := portmon()
	if err != nil {
		l.T.Fatal(err)
	}
	return program
}

// portmon runs a command, which must succeed, and returns what it wrote.
func (l *fixture) portmon(args ...string) string {
	l.T.Helper()
	var out strings.Builder
	l.command(func(c *exec.Cmd) error {
		c.Stdout, c.Stderr = &out, l.T.Output()
		return c.Run()
	}, l.program(), append(args, "--config", filepath.Join(l.dir, "portmon.toml"))...)
	return out.String()
}

func (l *fixture) fail2ban() []string {
	return []string{"-c", l.dir, "-s", l.dir + "/socket", "-p", l.dir + "/pid"}
}

// client runs a command of fail2ban-client, which must succeed.
func (l *fixture) client(args ...string) {
	l.T.Helper()
	l.command(func(c *exec.Cmd) error {
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}, "fail2ban-client", append(l.fail2ban(), args...)...)
}

// start starts fail2ban and waits until its jail is there.
func (l *fixture) start() {
	l.T.Helper()
	seen := strings.Count(l.log(), "Jail 'door' started")
	l.exited = make(chan struct{})
	l.server = l.command(func(c *exec.Cmd) error {
		c.Stdout, c.Stderr = l.T.Output(), l.T.Output()
		return c.Start()
	}, "fail2ban-server", append(l.fail2ban(), "-x", "-f", "start")...)
	server, exited := l.server, l.exited
	go func() {
		defer close(exited)
		_ = server.Wait()
	}()
	l.T.Cleanup(func() {
		_ = server.Process.Kill() // no error if it has ended
		<-exited
		if l.T.Failed() {
			l.T.Log(l.log())
		}
	})
	lab.Await(l.T, "the jail is there", func() bool { return strings.Count(l.log(), "Jail 'door' started") > seen })
}

// end ends fail2ban by a signal, and waits for its end.
func (l *fixture) end(s os.Signal) {
	l.T.Helper()
	if err := l.server.Process.Signal(s); err != nil {
		l.T.Fatal(err)
	}
	<-l.exited
}

func (l *fixture) log() string {
	data, err := os.ReadFile(filepath.Join(l.dir, "fail2ban.log"))
	if err != nil && !os.IsNotExist(err) {
		l.T.Fatal(err)
	}
	return string(data)
}

// faultless fails the test if fail2ban has met with an error when it acted.
func (l *fixture) faultless() {
	l.T.Helper()
	for line := range strings.Lines(l.log()) {
		// It has a word to say about the socket that it has left behind when it was killed.
		if (strings.Contains(line, " ERROR ") || strings.Contains(line, " CRITICAL ")) && !strings.Contains(line, "fail2ban.asyncserver") {
			l.T.Errorf("fail2ban says: %s", line)
		}
	}
}

// knock writes a line for each source into the log that the jail reads.
func (l *fixture) knock(sources ...string) {
	l.T.Helper()
	l.knocked(0, sources...)
}

// knocked writes lines about what was some time ago.
func (l *fixture) knocked(ago time.Duration, sources ...string) {
	l.T.Helper()
	f, err := os.OpenFile(filepath.Join(l.dir, "door.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		l.T.Fatal(err)
	}
	defer f.Close()
	for _, src := range sources {
		if _, err := fmt.Fprintf(f, "%d knock from %s\n", time.Now().Add(-ago).Unix(), src); err != nil {
			l.T.Fatal(err)
		}
	}
}

// served reports whether packets from a source get an answer.
func (l *fixture) served(source string) bool {
	l.T.Helper()
	return l.Probe(netip.MustParseAddr(source), lab.OpenTCP).Kind == netnstest.AnswerSYNACK
}

func (l *fixture) awaitCut(sources ...string) {
	l.T.Helper()
	for _, src := range sources {
		lab.Await(l.T, src+" gets no answer", func() bool { return !l.served(src) })
	}
}

func (l *fixture) awaitServed(sources ...string) {
	l.T.Helper()
	for _, src := range sources {
		lab.Await(l.T, src+" is served", func() bool { return l.served(src) })
	}
}

// ban is what portmon tells of one.
type ban struct {
	Prefix  netip.Prefix `json:"prefix"`
	Tier    int          `json:"tier"`
	Until   time.Time    `json:"until"`
	Expires float64      `json:"expires_seconds"`
	Reason  string       `json:"reason"`
}

// bans returns the bans by their prefix.
func (l *fixture) bans() map[string]ban {
	l.T.Helper()
	var list struct{ Bans []ban }
	if err := json.Unmarshal([]byte(l.portmon("list", "--json")), &list); err != nil {
		l.T.Fatal(err)
	}
	by := map[string]ban{}
	for _, b := range list.Bans {
		by[b.Prefix.String()] = b
	}
	return by
}
