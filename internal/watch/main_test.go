package watch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func TestMain(m *testing.M) {
	if os.Getenv(stateVariable) != "" {
		if err := watchUntilKilled(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(netnstest.Main(m))
}

const (
	openUDP  = 53
	trapTCP  = 23
	deadline = 20 * time.Second // ends a test that fails
)

// lab is a host with a table on it, and the outside, from where packets of any
// source come.
type lab struct {
	t             testing.TB
	host, outside *netnstest.Host
	link          *netnstest.Link // its end A is the outside's, B the host's
	conn          *nftset.Conn
	spec          ruleset.Spec
	sources       int // handed out
}

func newLab(t testing.TB, ladder ...time.Duration) *lab {
	t.Helper()
	l := newBareLab(t, ladder...)
	l.apply()
	return l
}

// newBareLab makes a lab without a table.
func newBareLab(t testing.TB, ladder ...time.Duration) *lab {
	t.Helper()
	l := &lab{t: t, host: netnstest.NewHost(t, "host"), outside: netnstest.NewHost(t, "outside"), spec: testSpec(ladder...)}
	l.link = netnstest.Connect(t, l.outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	l.host.DefaultVia(l.link.A.IPv4, l.link.A.IPv6)
	l.host.ListenUDP(fmt.Sprintf("[::]:%d", openUDP))
	var err error
	if l.conn, err = nftset.Dial(&nftset.Config{NetNS: l.host.FD()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	return l
}

// testSpec is the default with traps that are armed at once, a ladder, and no
// bans of subnets, as all sources are of a few.
func testSpec(ladder ...time.Duration) ruleset.Spec {
	s := ruleset.Default()
	s.Grace, s.Subnet6 = 0, 0
	if len(ladder) > 0 {
		s.BanTime = ladder
	}
	return s
}

func (l *lab) apply() {
	l.t.Helper()
	if _, err := ruleset.Apply(l.conn, l.spec); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) open() *ruleset.Handle {
	l.t.Helper()
	h, err := ruleset.Open(l.conn, l.spec.Table)
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

// pair returns a source of each family that nobody had before.
func (l *lab) pair() []netip.Addr {
	l.sources++
	return []netip.Addr{
		netip.AddrFrom4([4]byte{198, 18, byte(l.sources >> 8), byte(l.sources)}),
		netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::bad", l.sources)),
	}
}

// pairs returns n sources of each family.
func (l *lab) pairs(n int) (out []netip.Addr) {
	for range n {
		out = append(out, l.pair()...)
	}
	return out
}

// source returns the prefix by which an address is banned.
func (l *lab) source(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = l.spec.Prefix6
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func (l *lab) prefixes(sources ...netip.Addr) (out []netip.Prefix) {
	for _, src := range sources {
		out = append(out, l.source(src))
	}
	return out
}

// to returns a port of the host, at its address of the source's family.
func (l *lab) to(src netip.Addr, port uint16) netip.AddrPort {
	if src.Is4() {
		return netip.AddrPortFrom(l.link.B.IPv4, port)
	}
	return netip.AddrPortFrom(l.link.B.IPv6, port)
}

// offend sends a trap packet from each source, and returns when the host has
// done with it.
func (l *lab) offend(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		l.outside.Send(netnstest.SYN(src, l.to(src, trapTCP)))
	}
}

// served fails the test unless the host answers these sources.
func (l *lab) served(sources ...netip.Addr) { l.t.Helper(); l.want(netnstest.AnswerUDP, sources) }

// cut fails the test if the host answers any of these sources.
func (l *lab) cut(sources ...netip.Addr) { l.t.Helper(); l.want(netnstest.NoAnswer, sources) }

func (l *lab) want(kind netnstest.AnswerKind, sources []netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		if got := l.outside.Probe(netnstest.Datagram(src, l.to(src, openUDP), "hello")); got.Kind != kind {
			l.t.Fatalf("%v: got answer %v, want %v", src, got, netnstest.Answer{Kind: kind})
		}
	}
}

// look returns what the table has of an address.
func (l *lab) look(a netip.Addr) ruleset.Standing {
	l.t.Helper()
	st, err := l.open().Lookup(a)
	if err != nil {
		l.t.Fatal(err)
	}
	return st
}

// left returns how long an address is still banned, 0 if it is not.
func (l *lab) left(a netip.Addr) (longest time.Duration) {
	l.t.Helper()
	for _, b := range l.look(a).Bans {
		longest = max(longest, b.Remaining)
	}
	return longest
}

// awaitFree returns when none of the sources is banned any more. The kernel
// tells nobody.
func (l *lab) awaitFree(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		await(l.t, fmt.Sprint(src, " is free"), func() bool { return len(l.look(src).Bans) == 0 })
	}
}

// awaitStep returns when a source is banned, and at a step.
func (l *lab) awaitStep(step int, sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		await(l.t, fmt.Sprintf("%v is banned at step %d", src, step), func() bool {
			st := l.look(src)
			return len(st.Bans) > 0 && st.Step == step && l.left(src) > l.spec.BanTime[step-1]-deadline
		})
	}
}

func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}

// nft runs a script of nft's on the host.
func (l *lab) nft(script string) {
	l.t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		l.t.Fatal("install nftables: these tests edit by it as others would")
	}
	l.host.Do(func() {
		cmd := exec.Command(path, "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			l.t.Fatalf("nft -f: %v: %s", err, out)
		}
	})
}

// watcher is one that runs, and what it has told.
type watcher struct {
	*Watcher
	t      testing.TB
	lab    *lab
	stop   func() // returns when it has ended
	reload chan Config

	mu      sync.Mutex
	told    []News // that nobody has asked for yet
	changed chan struct{}
}

// watch starts a watcher, and returns when it is ready.
func (l *lab) watch(changes ...func(*Config)) *watcher {
	l.t.Helper()
	w := &watcher{t: l.t, lab: l, changed: make(chan struct{}, 1), reload: make(chan Config)}
	ready, ended := make(chan struct{}), make(chan error, 1)
	config := Config{
		NetNS: l.host.FD(), Spec: l.spec,
		Ready: func() { close(ready) },
		News:  w.tell,
		Fault: func(err error) { l.t.Error("fault: ", err) },
	}
	for _, change := range changes {
		change(&config)
	}
	var err error
	if w.Watcher, err = Open(config); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	go func() { ended <- w.Run(ctx, w.reload) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
		w.Close()
	})
	l.t.Cleanup(w.stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		l.t.Fatal("the watcher ended: ", err)
	case <-time.After(deadline):
		l.t.Fatal("the watcher is not ready")
	}
	return w
}

func (w *watcher) tell(news []News) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, news...)
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// next returns the next news.
func (w *watcher) next() (News, error) {
	end := time.After(deadline)
	for {
		w.mu.Lock()
		if len(w.told) > 0 {
			n := w.told[0]
			w.told = w.told[1:]
			w.mu.Unlock()
			return n, nil
		}
		w.mu.Unlock()
		select {
		case <-w.changed:
		case <-end:
			return News{}, errors.New("no news")
		}
	}
}

// want fails the test unless the next news are of this kind, one for each of
// the sources.
func (w *watcher) want(kind Kind, step, offences int, sources ...netip.Addr) {
	w.t.Helper()
	left := w.lab.prefixes(sources...)
	for len(left) > 0 {
		n, err := w.next()
		if err != nil {
			w.t.Fatalf("%v, want %v of %v", err, kind, left)
		}
		i := slices.Index(left, n.Source)
		if i < 0 || n.Kind != kind || n.Step != step || n.Offences != offences {
			w.t.Fatalf("got %v %+v, want %v of %v at step %d with %d offences", n.Kind, n, kind, left, step, offences)
		}
		left = slices.Delete(left, i, i+1)
	}
}

// awaitNews returns when there are such news, and passes over others.
func (w *watcher) awaitNews(kind Kind, n int) {
	w.t.Helper()
	for n > 0 {
		news, err := w.next()
		if err != nil {
			w.t.Fatalf("%v, want %v", err, kind)
		}
		if news.Kind == kind {
			n -= max(news.Count, 1)
		}
	}
}

// quiet fails the test if there are news that nobody has asked for, all that
// has happened being taken in.
func (w *watcher) quiet() {
	w.t.Helper()
	if err := w.Save(w.t.Context()); err != nil && !errors.Is(err, ErrEnded) {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.told) > 0 {
		w.t.Errorf("%d unexpected news, the first is %v %+v", len(w.told), w.told[0].Kind, w.told[0])
	}
}

// rows returns what the watcher remembers of sources, by prefix.
func (w *watcher) rows(sources ...netip.Addr) map[netip.Prefix]book.Row {
	w.t.Helper()
	out := make(map[netip.Prefix]book.Row)
	for row, err := range w.Rows(w.t.Context(), w.lab.prefixes(sources...)...) {
		if err != nil {
			w.t.Fatal(err)
		}
		out[row.Source] = row
	}
	return out
}

func (w *watcher) stats() Stats {
	w.t.Helper()
	s, err := w.Stats(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}
