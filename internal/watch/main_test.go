package watch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := roles[role](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(netnstest.Main(m))
}

// roleVariable makes the test binary another program: one of the roles.
const (
	roleVariable = "PORTMON_WATCH_TEST_ROLE"
	roleRemove   = "remove"
	roleWatch    = "watch"
)

var roles = map[string]func() error{roleRemove: removeTable, roleWatch: watchUntilKilled}

func removeTable() error {
	c, err := nftset.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = ruleset.Remove(c, ruleset.Default().Table)
	return err
}

const (
	openUDP  = 53
	trapTCP  = 23
	deadline = 20 * time.Second // ends a test that fails
)

// lab is a host with a table on it, and the outside, from where packets of any source come.
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
	l := &lab{t: t, host: netnstest.NewHost(t, "host"), outside: netnstest.NewHost(t, "outside"), spec: ruleset.Default()}
	l.link = netnstest.Connect(t, l.outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	l.host.DefaultVia(l.link.A.IPv4, l.link.A.IPv6)
	l.host.ListenUDP(fmt.Sprintf("[::]:%d", openUDP))
	if len(ladder) > 0 {
		l.spec.BanTime = ladder
	}
	var err error
	if l.conn, err = nftset.Dial(&nftset.Config{NetNS: l.host.FD()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	l.apply()
	return l
}

func (l *lab) apply() {
	l.t.Helper()
	if _, err := ruleset.Apply(l.conn, l.spec); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) read() *ruleset.State {
	l.t.Helper()
	s, err := ruleset.Read(l.conn, l.spec.Table)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// pair returns a source of each family that nobody had before.
func (l *lab) pair() []netip.Addr {
	l.sources++
	return []netip.Addr{
		netip.AddrFrom4([4]byte{198, 18, byte(l.sources >> 8), byte(l.sources)}),
		netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::bad", l.sources)),
	}
}

// to returns a port of the host, at its address of the source's family.
func (l *lab) to(src netip.Addr, port uint16) netip.AddrPort {
	if src.Is4() {
		return netip.AddrPortFrom(l.link.B.IPv4, port)
	}
	return netip.AddrPortFrom(l.link.B.IPv6, port)
}

// offend sends a trap packet from each source, and returns when the host has done with it.
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

// cutUntil is cut for a moment after which an answer is right. It reports false once that is past.
func (l *lab) cutUntil(end time.Time, sources ...netip.Addr) bool {
	l.t.Helper()
	for _, src := range sources {
		got := l.outside.Probe(netnstest.Datagram(src, l.to(src, openUDP), "hello"))
		if !time.Now().Before(end) {
			return false // on a busy machine this packet was too late to tell anything
		}
		if got.Kind != netnstest.NoAnswer {
			l.t.Fatalf("%v: got answer %v, want none for %v more", src, got, time.Until(end))
		}
	}
	return true
}

func (l *lab) want(kind netnstest.AnswerKind, sources []netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		if got := l.outside.Probe(netnstest.Datagram(src, l.to(src, openUDP), "hello")); got.Kind != kind {
			l.t.Fatalf("%v: got answer %v, want %v", src, got, netnstest.Answer{Kind: kind})
		}
	}
}

// bans returns the tiers that an address is banned in, the longest first, and the time left in the first of them.
func (l *lab) bans(a netip.Addr) (tiers []int, left time.Duration) {
	l.t.Helper()
	st, err := l.read().Lookup(l.conn, a)
	if err != nil {
		l.t.Fatal(err)
	}
	for i, b := range st.Bans {
		tiers = append(tiers, b.Tier)
		if i == 0 {
			left = b.Expires
		}
	}
	return tiers, left
}

// awaitFree returns when none of the sources is banned any more. The kernel tells nobody.
func (l *lab) awaitFree(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		await(l.t, fmt.Sprint(src, " is free"), func() bool { tiers, _ := l.bans(src); return len(tiers) == 0 })
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

// watcher is a loop that runs, and what it has told.
type watcher struct {
	*Watcher
	t    testing.TB
	loop *loop
	stop func() // returns when it has ended

	reload chan Config

	mu      sync.Mutex
	told    []News // that nobody has asked for yet
	changed chan struct{}
}

// watch starts a watcher, and returns when it is ready.
func (l *lab) watch(changes ...func(*Config)) *watcher {
	l.t.Helper()
	w := &watcher{t: l.t, changed: make(chan struct{}, 1), reload: make(chan Config)}
	ready, ended := make(chan struct{}), make(chan error, 1)
	config := Config{
		NetNS: l.host.FD(), Spec: l.spec, Forget: 24 * time.Hour,
		Ready: func() { close(ready) },
		News:  w.tell,
		Fault: func(err error) { l.t.Error(err) },
	}
	for _, change := range changes {
		change(&config)
	}
	var err error
	if w.Watcher, err = Open(config); err != nil {
		l.t.Fatal(err)
	}
	w.loop = w.l
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

// want fails the test unless the next news are of these kinds about these sources, in this order for each source.
func (w *watcher) want(kinds []Kind, tier, offences int, sources ...netip.Addr) {
	w.t.Helper()
	want := make(map[netip.Prefix][]Kind)
	for _, src := range sources {
		bits := src.BitLen()
		if src.Is6() {
			bits = ruleset.Default().Prefix6
		}
		p, _ := src.Prefix(bits)
		want[p] = kinds
	}
	for range len(kinds) * len(sources) {
		n, err := w.next()
		if err != nil {
			w.t.Fatalf("%v, want %v", err, want)
		}
		left := want[n.Source]
		if len(left) == 0 || n.Kind != left[0] || n.Offences != offences {
			w.t.Fatalf("got %v %+v, want %v with %d offences", n.Kind, n, want, offences)
		}
		if want[n.Source] = left[1:]; len(left) == 1 && n.Tier != tier {
			w.t.Fatalf("got %v %+v, want tier %d", n.Kind, n, tier)
		}
	}
}

// quiet fails the test if there are news that nobody has asked for.
func (w *watcher) quiet() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.told) > 0 {
		w.t.Errorf("%d unexpected news, the first is %v %+v", len(w.told), w.told[0].Kind, w.told[0])
	}
}
