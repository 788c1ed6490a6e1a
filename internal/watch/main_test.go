package watch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
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
	os.Exit(lab.Main(m, 12))
}

// fixture is a lab with a Spec, whose table is on the host once apply is called.
type fixture struct {
	*banlab.Lab
	spec ruleset.Spec
}

func newLab(t testing.TB, ladder ...time.Duration) *fixture {
	t.Helper()
	l := newBareLab(t, ladder...)
	l.apply()
	return l
}

// newBareLab makes a lab without a table.
func newBareLab(t testing.TB, ladder ...time.Duration) *fixture {
	t.Helper()
	return &fixture{banlab.New(t), testSpec(ladder...)}
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

func (l *fixture) apply() { l.T.Helper(); l.Apply(l.spec) }

// deleteTable deletes the table as others do. It may be called in the watcher.
func (l *fixture) deleteTable() {
	var tx nftset.Tx
	tx.DeleteTable(nftset.Table{Family: nftset.FamilyINet, Name: l.spec.Table})
	if err := l.Conn.Commit(&tx); err != nil {
		l.T.Error(err)
	}
}

// source returns the prefix by which an address is banned.
func (l *fixture) source(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = l.spec.Prefix6
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func (l *fixture) prefixes(sources ...netip.Addr) (out []netip.Prefix) {
	for _, src := range sources {
		out = append(out, l.source(src))
	}
	return out
}

// left returns how long an address is still banned, 0 if it is not.
func (l *fixture) left(a netip.Addr) (longest time.Duration) {
	l.T.Helper()
	for _, b := range l.Lookup(a).Bans {
		longest = max(longest, b.Remaining)
	}
	return longest
}

// awaitStep returns when a source is banned, and at a step.
func (l *fixture) awaitStep(step int, sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		lab.Await(l.T, fmt.Sprintf("%v is banned at step %d", src, step), func() bool {
			st := l.Lookup(src)
			return len(st.Bans) > 0 && st.Step == step && l.left(src) > l.spec.BanTime[step-1]-lab.Patience
		})
	}
}

// watcher is one that runs, and what it has told.
type watcher struct {
	*Watcher
	t      testing.TB
	lab    *fixture
	stop   func() // returns when it has ended
	cancel func() // has it end
	reload chan Config

	mu      sync.Mutex
	told    []News // that nobody has asked for yet
	changed chan struct{}
}

// watch starts a watcher, and returns when it is ready.
func (l *fixture) watch(changes ...func(*Config)) *watcher {
	l.T.Helper()
	w := &watcher{t: l.T, lab: l, changed: make(chan struct{}, 1), reload: make(chan Config)}
	ready, ended := make(chan struct{}), make(chan error, 1)
	config := Config{
		NetNS: l.Host.FD(), Spec: l.spec,
		Ready: func() { close(ready) },
		News:  w.tell,
		Fault: func(err error) { l.T.Error("fault: ", err) },
	}
	for _, change := range changes {
		change(&config)
	}
	var err error
	if w.Watcher, err = Open(config); err != nil {
		l.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.T.Context())
	go func() { ended <- w.Run(ctx, w.reload) }()
	w.cancel = cancel
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			l.T.Error(err)
		}
		w.Close()
	})
	l.T.Cleanup(w.stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		l.T.Fatal("the watcher ended: ", err)
	case <-time.After(lab.LongPatience):
		l.T.Fatal("the watcher is not ready")
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

// next returns the next news. It waits for as long as lab.Await does.
func (w *watcher) next() (News, error) {
	end := time.After(lab.LongPatience)
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
	w.call(w.t.Context(), func() { w.core.release(math.MaxInt64); w.dispatch() })
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
	_, rows, err := w.Rows(w.t.Context(), w.lab.prefixes(sources...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	for row, err := range rows {
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
