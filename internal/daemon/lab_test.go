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

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const trapTCP = 23

// settings are what a configuration file is made of.
type settings struct {
	ladder  []string
	state   string
	metrics string
	command []string
	extra   string // lines at the end of [watch]
}

// lab is a host with a table on it, and the outside, from where packets of any
// source come.
type lab struct {
	t             testing.TB
	host, outside *netnstest.Host
	link          *netnstest.Link // its end A is the outside's, B the host's
	conn          *nftset.Conn
	dir           string
	settings
}

func newLab(t testing.TB, ladder ...string) *lab {
	t.Helper()
	// The name is short, as that of a socket must be.
	dir, err := os.MkdirTemp("", "daemon")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, host: netnstest.NewHost(t, "host"), outside: netnstest.NewHost(t, "outside"), dir: dir}
	l.state = filepath.Join(dir, "state.jsonl")
	if l.ladder = ladder; ladder == nil {
		l.ladder = []string{"8h", "3d", "30d"}
	}
	l.link = netnstest.Connect(t, l.outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	l.host.DefaultVia(l.link.A.IPv4, l.link.A.IPv6)
	if l.conn, err = nftset.Dial(&nftset.Config{NetNS: l.host.FD()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	l.write()
	l.apply()
	return l
}

// apply puts the table in force that the configuration file says.
func (l *lab) apply() {
	l.t.Helper()
	conf, err := config.Load(l.file())
	if err == nil {
		_, err = ruleset.Apply(l.conn, conf.Spec)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) file() string { return filepath.Join(l.dir, "portmon.toml") }

// write writes the configuration file.
func (l *lab) write() {
	l.t.Helper()
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
	if err := os.WriteFile(l.file(), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// notices has a role of the test binary run for notices, and returns the
// directory that it writes them to.
func (l *lab) notices(role string) string {
	l.t.Helper()
	dir, err := os.MkdirTemp(l.dir, "notices")
	if err != nil {
		l.t.Fatal(err)
	}
	l.command = []string{self(l.t), role, dir}
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

// syn returns a packet to a trap port.
func (l *lab) syn(src netip.Addr) netnstest.Packet {
	to := l.link.B.IPv4
	if src.Is6() {
		to = l.link.B.IPv6
	}
	return netnstest.SYN(src, netip.AddrPortFrom(to, trapTCP))
}

// offend sends a trap packet from each source, and returns when the host has
// done with it.
func (l *lab) offend(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		l.outside.Send(l.syn(src))
	}
}

// standing returns what the kernel knows of an address.
func (l *lab) standing(a netip.Addr) ruleset.Standing {
	l.t.Helper()
	h, err := ruleset.Open(l.conn, ruleset.Default().Table)
	if err != nil {
		l.t.Fatal(err)
	}
	st, err := h.Lookup(a)
	if err != nil {
		l.t.Fatal(err)
	}
	return st
}

// awaitFree returns when the source is not banned any more. The kernel tells
// nobody.
func (l *lab) awaitFree(src netip.Addr) {
	l.t.Helper()
	await(l.t, src.String()+" is free", func() bool { return !l.standing(src).Banned() })
}

// get asks the host for its metrics, at an address of its own.
func (l *lab) get(addr string) (body string, err error) {
	conn, err := l.host.Dial("tcp", netip.Addr{}, netip.MustParseAddrPort(addr), deadline)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(deadline))
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
func (l *lab) value(addr, series string) (v string, ok bool) {
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
	ended  chan struct{} // closed when it has
	err    error         // how it ended

	reading sync.WaitGroup

	mu    sync.Mutex
	told  []string // to systemd
	lines []string // of the journal
}

// run starts a daemon on the host.
func (l *lab) run(watchdog time.Duration) *process {
	l.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	p := l.runWith(write, watchdog)
	write.Close()
	p.reading.Go(func() { p.read(read, &p.lines) })
	return p
}

// runWith starts a daemon on the host with another standard error.
func (l *lab) runWith(stderr *os.File, watchdog time.Duration) *process {
	l.t.Helper()
	l.write()
	p := &process{Cmd: exec.Command(self(l.t)), t: l.t, socket: control.Path(l.state), ended: make(chan struct{})}
	p.Env = append(os.Environ(), configVariable+"="+l.file(), watchdogVariable+"="+watchdog.String())
	p.Stderr = stderr
	out, err := p.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.host.Do(func() { err = p.Start() })
	if err != nil {
		l.t.Fatal(err)
	}
	p.reading.Go(func() { p.read(out, &p.told) })
	go func() {
		p.reading.Wait()
		p.err = p.Wait()
		close(p.ended)
	}()
	l.t.Cleanup(func() {
		p.Process.Kill()
		<-p.ended
		if l.t.Failed() {
			lines := p.seen(&p.lines)
			lines = lines[max(0, len(lines)-20):]
			l.t.Logf("told to systemd: %s\nend of the journal:\n%s", strings.Join(p.seen(&p.told), " "), strings.Join(lines, "\n"))
		}
	})
	return p
}

// start starts a daemon on the host, and returns when it is ready.
func (l *lab) start() *process {
	l.t.Helper()
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
	await(p.t, fmt.Sprintf("%d times %s", times, name), func() bool {
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
	await(p.t, "the journal says "+strings.Join(words, ", "), func() bool { return len(p.journal(words...)) > 0 })
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

// status returns what the daemon says of itself. On a busy machine, more than
// one question may be needed.
func (p *process) status() (s control.Status) {
	p.t.Helper()
	c := p.ask()
	defer c.Close()
	await(p.t, "an answer", func() (ok bool) {
		var err error
		s, err = c.Status()
		return err == nil
	})
	return s
}

func (p *process) awaitRows(n int) {
	p.t.Helper()
	await(p.t, fmt.Sprintf("%d sources are known", n), func() bool { return p.status().Rows == n })
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
	case <-time.After(deadline):
		p.t.Fatal("it does not end")
	}
}
