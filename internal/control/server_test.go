package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// lab is a host with a watcher on it that answers, and the outside, from where packets of any source come.
type lab struct {
	*Client
	t             testing.TB
	host, outside *netnstest.Host
	link          *netnstest.Link // its end A is the outside's, B the host's
	conn          *nftset.Conn
	spec          ruleset.Spec
	state         string // the file
	reloads       chan error
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{
		t: t, host: netnstest.NewHost(t, "host"), outside: netnstest.NewHost(t, "outside"), spec: ruleset.Default(),
		state: filepath.Join(folder(t), "state.jsonl"), reloads: make(chan error, 1),
	}
	l.link = netnstest.Connect(t, l.outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	l.host.DefaultVia(l.link.A.IPv4, l.link.A.IPv6)
	var err error
	if l.conn, err = nftset.Dial(&nftset.Config{NetNS: l.host.FD()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	if _, err := ruleset.Apply(l.conn, l.spec); err != nil {
		t.Fatal(err)
	}
	w, err := watch.Open(watch.Config{
		NetNS: l.host.FD(), Spec: l.spec, Forget: time.Hour, State: l.state,
		Fault: func(err error) { t.Log("fault: ", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(Path(l.state))
	if err != nil {
		t.Fatal(err)
	}
	server := &Server{
		Watcher: w, Config: func() string { return "/etc/portmon/portmon.toml" }, Reload: func() error { return <-l.reloads },
	}
	ctx, cancel := context.WithCancel(t.Context())
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := w.Run(ctx, nil); err != nil {
			t.Log("the watcher ended: ", err)
		}
	})
	parts.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			t.Error("serve: ", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		parts.Wait()
		w.Close()
	})
	if l.Client, err = Dial(Path(l.state)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// offend sends a trap packet from each source, and returns when the watcher knows.
func (l *lab) offend(sources ...netip.Addr) {
	l.t.Helper()
	before := l.status().Offenders
	for _, src := range sources {
		to := l.link.B.IPv4
		if src.Is6() {
			to = l.link.B.IPv6
		}
		l.outside.Send(netnstest.SYN(src, netip.AddrPortFrom(to, 23)))
	}
	await(l.t, "the watcher knows the offenders", func() bool { return l.status().Offenders == before+len(sources) })
}

func (l *lab) status() Status {
	l.t.Helper()
	s, err := l.Status()
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// records returns what the watcher remembers, by prefix.
func (l *lab) records(of ...netip.Prefix) map[netip.Prefix]state.Record {
	l.t.Helper()
	h, recs, err := l.Records(of...)
	if err != nil {
		l.t.Fatal(err)
	}
	if age := time.Since(h.Saved.Wall); age < 0 || age > deadline || h.Table == 0 {
		l.t.Errorf("the header is %+v", h)
	}
	got := make(map[netip.Prefix]state.Record)
	for _, rec := range recs {
		got[rec.Prefix] = rec
	}
	if len(got) != len(recs) {
		l.t.Errorf("%d records of %d prefixes", len(recs), len(got))
	}
	return got
}

var (
	addr4, addr6 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:1:2::bad")
	src4, src6   = netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("2001:db8:1:2::/64")
	stranger     = netip.MustParsePrefix("203.0.113.9/32")
)

func TestRecords(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if got := l.records(); len(got) != 0 {
		t.Errorf("nobody has offended: %v", got)
	}
	l.offend(addr4, addr6)
	byHand := netip.MustParsePrefix("203.0.113.0/24")
	s, err := ruleset.Read(l.conn, l.spec.Table)
	if err == nil {
		_, err = s.Ban(l.conn, byHand, time.Hour, "by \"me\"\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the watcher knows of the ban by hand", func() bool { return len(l.records()) == 3 })
	trapped := func(src netip.Prefix) state.Record {
		return state.Record{
			Prefix: src, Banned: true, Tier: 1, Timeout: l.spec.BanTime[0], Offences: 1, Proto: unix.IPPROTO_TCP, Port: 23,
		}
	}
	want := map[netip.Prefix]state.Record{
		src4: trapped(src4), src6: trapped(src6),
		byHand: {Prefix: byHand, Banned: true, Timeout: time.Hour, ByHand: true, Comment: "by \"me\"\n"},
	}
	for name, of := range map[string][]netip.Prefix{
		"all": nil, "one": {src4}, "two": {src6, byHand}, "none": {stranger}, "some": {stranger, src6},
	} {
		got := l.records(of...)
		n := 0
		for src, rec := range want {
			if of != nil && !slices.Contains(of, src) {
				continue
			}
			n++
			have := got[src]
			if have.Left <= rec.Timeout-deadline || have.Left > rec.Timeout || have.Age < 0 || have.Age > deadline {
				t.Errorf("%s: %v is banned for %v more, and offended %v ago", name, src, have.Left, have.Age)
			}
			have.Left, have.Age = 0, 0
			if have != rec {
				t.Errorf("%s: got %+v, want %+v", name, have, rec)
			}
		}
		if len(got) != n {
			t.Errorf("%s: got %d records, want %d", name, len(got), n)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	start := time.Now().Truncate(0)
	l := newLab(t)
	l.offend(addr4)
	got := l.status()
	if got.Since.Before(start) || got.Since.After(time.Now()) {
		t.Errorf("it runs since %v", got.Since)
	}
	got.Since = time.Time{}
	if want := (Status{PID: os.Getpid(), NetNS: state.Here(0).NetNS, Config: "/etc/portmon/portmon.toml", Offenders: 1, Resyncs: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestForgive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.offend(addr4, addr6)
	had, err := l.Forgive([]netip.Prefix{stranger, src6})
	if err != nil || !slices.Equal(had, []netip.Prefix{src6}) {
		t.Errorf("got %v, error %v, want %v", had, err, src6)
	}
	for src, want := range map[netip.Prefix]int{src4: 1, src6: 0} {
		if rec := l.records()[src]; rec.Offences != want || !rec.Banned {
			t.Errorf("%v: got %+v, want %d offences and a ban", src, rec, want)
		}
	}
	if had, err := l.Forgive(nil); err != nil || len(had) != 0 {
		t.Errorf("nobody: got %v, error %v", had, err)
	}
}

func TestSave(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.offend(addr4)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	f, err := state.Open(l.state)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []netip.Prefix
	for rec := range f.Records() {
		got = append(got, rec.Prefix)
	}
	if !slices.Equal(got, []netip.Prefix{src4}) {
		t.Errorf("saved %v, want %v", got, src4)
	}
	// A directory in the way of the file cannot be replaced by it, whoever tries.
	if err := errors.Join(os.Remove(l.state), os.MkdirAll(filepath.Join(l.state, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	err = l.Save()
	if err == nil || !strings.HasPrefix(err.Error(), "have the watcher save: ") || !strings.Contains(err.Error(), l.state) {
		t.Errorf("got error %v, want one that names the file", err)
	}
	if n := l.status().SaveFailures; n != 1 {
		t.Errorf("%d failures to save, want 1", n)
	}
	if err := os.RemoveAll(l.state); err != nil {
		t.Fatal(err)
	}
	if err := l.Save(); err != nil {
		t.Errorf("nothing is in the way any more: %v", err)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.reloads <- nil
	if err := l.Reload(); err != nil {
		t.Error(err)
	}
	wrong := errors.New("/etc/portmon/portmon.toml:3: trap.tcp: no port: 70000\n/etc/portmon/portmon.toml:9: <unknown> key \"x\"")
	l.reloads <- wrong
	err := l.Reload()
	if want := "have the watcher read its configuration: " + wrong.Error(); err == nil || err.Error() != want {
		t.Errorf("got error %q, want %q", err, want)
	}
}

// TestLongRequest has a request refused that is longer than the bound, before anything is done of what it asks for.
func TestLongRequest(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.offend(addr4)
	post := func(length int) (int, error) {
		list := fmt.Sprintf("[%q", src4)
		body := list + strings.Repeat(" ", length-len(list)-1) + "]"
		resp, err := l.orders.Post("http://watcher"+forgivePath, "application/json", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		return resp.StatusCode, nil
	}
	if status, err := post(maxBody + 1); err == nil && status == http.StatusOK {
		t.Error("one byte too many was taken")
	}
	if n := l.records()[src4].Offences; n != 1 {
		t.Errorf("%v has %d offences, want 1", src4, n)
	}
	if status, err := post(maxBody); status != http.StatusOK {
		t.Errorf("a request that is not too long: status %d, error %v", status, err)
	}
	if n := l.records()[src4].Offences; n != 0 {
		t.Errorf("%v has %d offences after it was forgiven", src4, n)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for what, ask := range map[string]func() error{
		"source: ":           func() error { return l.do("ask", "GET", recordsPath+"?source=x", nil, nil) },
		"read the request: ": func() error { return l.do("ask", "POST", forgivePath, "no list", nil) },
		"Method Not Allowed": func() error { return l.do("ask", "GET", savePath, nil, nil) },
		"not found":          func() error { return l.do("ask", "GET", "/", nil, nil) },
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got error %v, want %q", err, what)
		}
	}
	l.status() // and it answers others as before
}

func TestEndedWatcher(t *testing.T) {
	t.Parallel()
	w, err := watch.Open(watch.Config{NetNS: netnstest.NewHost(t, "host").FD(), Spec: ruleset.Default(), Forget: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder(t), "sock")
	s := start(t, path, &Server{Watcher: w, Config: func() string { return "" }, Reload: func() error { return watch.ErrEnded }})
	defer s.end()
	for what, ask := range questions {
		c, err := Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(c); err == nil || !strings.Contains(err.Error(), watch.ErrEnded.Error()) {
			t.Errorf("%s: got error %v, want %v", what, err, watch.ErrEnded)
		}
		c.Close()
	}
}

// run is a server that runs.
type run struct {
	cancel func()
	ended  chan error
	t      testing.TB
}

func start(t testing.TB, path string, s *Server) *run {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{ended: make(chan error, 1), t: t}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.ended <- s.Serve(ctx, l) }()
	return r
}

func (r *run) end() {
	r.t.Helper()
	r.cancel()
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Error("serve: ", err)
		}
	case <-time.After(deadline):
		r.t.Fatal("the server goes on after its end")
	}
}

// TestEnd has the server end with idle connections, with some that have asked for nothing yet, and with one that is being answered. It
// looks at all goroutines, so it is not parallel.
func TestEnd(t *testing.T) {
	path := filepath.Join(folder(t), "sock")
	asked, release := make(chan struct{}), make(chan struct{})
	var answered bool // is read when the server has ended: the race detector sees to it that this is after it was written
	r := start(t, path, &Server{Reload: func() error {
		close(asked)
		<-release
		time.Sleep(100 * time.Millisecond) // time to be caught, for a server that does not wait
		answered = true
		return nil
	}})
	var clients []*Client
	for range 3 {
		c, err := Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	if err := clients[0].do("ask", "GET", "/", nil, nil); err == nil {
		t.Error("there is something to be had at /")
	}
	got := make(chan error)
	go func() { got <- clients[1].Reload() }()
	<-asked
	r.cancel()
	if err := <-got; err == nil {
		t.Error("an answer came when the server had ended")
	}
	select {
	case <-r.ended:
		t.Fatal("the server has ended while it answers")
	default:
	}
	close(release)
	r.end()
	if !answered {
		t.Error("the server has not waited for the last answer")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNone) {
		t.Errorf("dial: %v, want %v", err, ErrNone)
	}
	for _, c := range clients {
		c.Close()
	}
	await(t, "no goroutine is left", func() bool { return len(leaked()) == 0 })
	for _, g := range leaked() {
		t.Error(g)
	}
}

// leaked returns the goroutines that serve or ask.
func leaked() []string {
	buf := make([]byte, 1<<20)
	var left []string
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "net/http.") || strings.Contains(g, "control.(*Server)") || strings.Contains(g, "control.(*Client)") {
			left = append(left, g)
		}
	}
	return left
}

// TestEndBeforeTheBeginning has nobody listen whose context has ended already.
func TestEndBeforeTheBeginning(t *testing.T) {
	path := filepath.Join(folder(t), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := new(Server).Serve(ctx, l); err != nil {
		t.Error(err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNone) {
		t.Errorf("dial: %v, want %v", err, ErrNone)
	}
}
