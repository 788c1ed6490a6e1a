package daemon

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/internal/lab/dnslab"
	"github.com/portmon/portmon/netnstest"
)

// settings are what a configuration file is made of.
type settings struct {
	ladder  []string
	state   string
	metrics string
	command []string
	extra   string // lines at the end of [watch]
	names   []string
}

// fixture is a lab with the files of a daemon.
type fixture struct {
	*banlab.Lab
	dir   string
	files map[string]string // in place of those of the system, by path
	settings
}

func newLab(t testing.TB, ladder ...string) *fixture {
	t.Helper()
	l := &fixture{Lab: banlab.New(t), dir: lab.ShortDir(t)}
	l.state = filepath.Join(l.dir, "state.jsonl")
	if l.ladder = ladder; ladder == nil {
		l.ladder = []string{"8h", "3d", "30d"}
	}
	l.write()
	l.apply()
	return l
}

// apply puts the table in force that the configuration file says.
func (l *fixture) apply() {
	l.T.Helper()
	conf, err := config.Load(l.file())
	if err != nil {
		l.T.Fatal(err)
	}
	l.Apply(conf.Spec)
}

func (l *fixture) file() string { return filepath.Join(l.dir, "portmon.toml") }

// write writes the configuration file.
func (l *fixture) write() {
	l.T.Helper()
	list := func(s []string) string {
		var quoted []string
		for _, one := range s {
			quoted = append(quoted, strconv.Quote(one))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	// Traps are armed at once, and no subnet is banned.
	text := fmt.Sprintf("[trap]\ngrace = \"0s\"\n[ban]\nbantime = %s\nsubnet6 = 0\n[watch]\nstate = %q\nmetrics = %q\ncommand = %s\n%s",
		list(l.ladder), l.state, l.metrics, list(l.command), l.extra)
	if l.names != nil {
		text = "whitelist_names = " + list(l.names) + "\n" + text
	}
	if err := os.WriteFile(l.file(), []byte(text), 0o600); err != nil {
		l.T.Fatal(err)
	}
}

// notices has a role of the test binary run for notices, and returns the
// directory that it writes them to.
func (l *fixture) notices(role string) string {
	l.T.Helper()
	dir, err := os.MkdirTemp(l.dir, "notices")
	if err != nil {
		l.T.Fatal(err)
	}
	l.command = []string{self(l.T), role, dir}
	return dir
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func source(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }

// get asks the host for its metrics, at an address of its own.
func (l *fixture) get(addr string) (body string, err error) {
	conn, err := l.Host.Dial("tcp", netip.Addr{}, netip.MustParseAddrPort(addr), lab.Patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Patience))
	fmt.Fprintf(conn, "GET /metrics HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", resp.Status)
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// value returns a metric of the host; ok is false if it cannot be had.
func (l *fixture) value(addr, series string) (v string, ok bool) {
	body, err := l.get(addr)
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// process is a daemon that runs.
type process struct {
	*exec.Cmd
	t      testing.TB
	socket string
	host   *netnstest.Host
	ended  chan struct{} // closed when it has
	err    error         // how it ended

	reading sync.WaitGroup

	mu    sync.Mutex
	told  []string // to systemd
	lines []string // of the journal
}

// run starts a daemon on the host.
func (l *fixture) run(watchdog time.Duration) *process {
	l.T.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		l.T.Fatal(err)
	}
	p := l.runWith(write, watchdog)
	write.Close()
	p.reading.Go(func() { p.read(read, &p.lines) })
	return p
}

// runWith starts a daemon on the host with another standard error.
func (l *fixture) runWith(stderr *os.File, watchdog time.Duration) *process {
	l.T.Helper()
	l.write()
	p := &process{Cmd: exec.Command(self(l.T)), t: l.T, socket: control.Path(l.state), host: l.Host, ended: make(chan struct{})}
	p.Env = append(os.Environ(), configVariable+"="+l.file(), watchdogVariable+"="+watchdog.String())
	p.Stderr = stderr
	out, err := p.StdoutPipe()
	if err != nil {
		l.T.Fatal(err)
	}
	dnslab.Within(l.T, l.Host, l.files, func() { err = p.Start() })
	if err != nil {
		l.T.Fatal(err)
	}
	p.reading.Go(func() { p.read(out, &p.told) })
	go func() {
		p.reading.Wait()
		p.err = p.Wait()
		close(p.ended)
	}()
	l.T.Cleanup(func() {
		p.Process.Kill()
		<-p.ended
		if l.T.Failed() {
			lines := p.seen(&p.lines)
			lines = lines[max(0, len(lines)-20):]
			l.T.Logf("told to systemd: %s\nend of the journal:\n%s", strings.Join(p.seen(&p.told), " "), strings.Join(lines, "\n"))
		}
	})
	return p
}

// start starts a daemon on the host, and returns when it is ready.
func (l *fixture) start() *process {
	l.T.Helper()
	p := l.run(0)
	p.awaitReady()
	return p
}

func (p *process) read(from io.Reader, into *[]string) {
	for s := bufio.NewScanner(from); s.Scan(); {
		p.mu.Lock()
		*into = append(*into, s.Text())
		p.mu.Unlock()
	}
}

// seen returns a copy of what was read until now.
func (p *process) seen(lines *[]string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(*lines)
}

// notified returns what it has told systemd, by the name before the first "=".
func (p *process) notified() (names []string) {
	for _, line := range p.seen(&p.told) {
		text, err := strconv.Unquote(line)
		if err != nil {
			p.t.Fatalf("%v: %s", err, line)
		}
		name, _, _ := strings.Cut(text, "=")
		names = append(names, name)
	}
	return names
}

func (p *process) awaitNotified(name string, times int) {
	p.t.Helper()
	lab.Await(p.t, fmt.Sprintf("%d times %s", times, name), func() bool {
		n := 0
		for _, have := range p.notified() {
			if have == name {
				n++
			}
		}
		return n >= times || p.hasEnded()
	})
	if p.hasEnded() {
		p.t.Fatal("it has ended: ", p.err)
	}
}

func (p *process) awaitReady() { p.t.Helper(); p.awaitNotified("READY", 1) }

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// journal returns the lines of the journal that have all of these words.
func (p *process) journal(words ...string) (lines []string) {
	for _, line := range p.seen(&p.lines) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (p *process) awaitJournal(words ...string) {
	p.t.Helper()
	lab.Await(p.t, "the journal says "+strings.Join(words, ", "), func() bool { return len(p.journal(words...)) > 0 })
}

// ask returns a client of the daemon's socket.
func (p *process) ask() *control.Client {
	p.t.Helper()
	c, err := control.Dial(p.socket)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// book returns what the daemon remembers of sources, as one learns in its network
// namespace.
func (p *process) book(of ...netip.Prefix) (b *book.Book) {
	p.t.Helper()
	p.await("what is remembered", func(c *control.Client) (err error) {
		p.host.Do(func() { b, err = c.Book(0, of...) })
		return err
	})
	return b
}

// status returns what the daemon says of itself.
func (p *process) status() (s control.Status) {
	p.t.Helper()
	p.await("the status", func(c *control.Client) (err error) { s, err = c.Status(); return err })
	return s
}

// await asks until there is an answer. On a busy machine, more than one question
// may be needed.
func (p *process) await(what string, question func(*control.Client) error) {
	p.t.Helper()
	c := p.ask()
	defer c.Close()
	lab.Await(p.t, what, func() bool { return question(c) == nil })
}

// awaitOffenders returns when n sources are known, all of which have offended.
// If they are many, offenders are counted later than rows, and of what others
// put, the ban and the step are events of their own.
func (p *process) awaitOffenders(n int) {
	p.t.Helper()
	p.awaitRows(n, n)
}

func (p *process) awaitRows(n, offenders int) {
	p.t.Helper()
	lab.Await(p.t, fmt.Sprintf("%d sources are known, %d of which have offended", n, offenders), func() bool {
		s := p.status()
		return s.Rows == n && s.Offenders == offenders
	})
}

// stop ends the daemon and returns when it has ended, which must be without an
// error.
func (p *process) stop() {
	p.t.Helper()
	p.Process.Signal(unix.SIGTERM)
	p.awaitEnd()
	if p.err != nil {
		p.t.Error("it ended: ", p.err)
	}
}

func (p *process) awaitEnd() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(lab.LongPatience):
		p.t.Fatal("it does not end")
	}
}
