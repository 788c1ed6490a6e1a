package nftset

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
)

// firstError returns the error that ends the elements of a set, and how many
// came before it.
func firstError(c *Conn, s *Set) (n int, err error) {
	for _, err = range c.Elements(s) {
		if err == nil {
			n++
		}
	}
	return n, err
}

// TestElementsErrors reads what is not there, and what is not what the
// description says. An empty answer would be a lie.
func TestElementsErrors(t *testing.T) {
	l := newLab(t)
	for _, flags := range []Flags{0, FlagInterval} {
		for _, s := range []*Set{
			{Table: l.table, Name: "none", Type: IPv4Addr, Flags: flags},
			{Table: Table{FamilyINet, "none"}, Name: "s", Type: IPv4Addr, Flags: flags},
			{Table: Table{FamilyIPv4, "lab"}, Name: "s", Type: IPv4Addr, Flags: flags},
		} {
			n, err := firstError(l.Conn, s)
			var op *OpError
			if n != 0 || !errors.Is(err, os.ErrNotExist) || !errors.As(err, &op) || op.Object != s.String() {
				t.Errorf("read %v: %d elements, %v", s, n, err)
			}
			if want := "read set " + s.String() + ": there is none"; err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
	s := l.set("hash", IPv4Addr, 0, Element{Interval: iv("10.0.0.1")})
	n := l.set("nets", IPv4Addr, FlagInterval, Element{Interval: iv("10.0.0.0/8")})
	for _, wrong := range []*Set{
		{Table: l.table, Name: s.Name, Type: IPv6Addr},
		{Table: l.table, Name: s.Name, Type: InetService},
		{Table: l.table, Name: n.Name, Type: InetService, Flags: FlagInterval},
		{Table: l.table, Name: n.Name, Type: IPv4Addr}, // has intervals
	} {
		if _, err := firstError(l.Conn, wrong); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("read %v as flags %d of %v: %v", wrong, wrong.Flags, wrong.Type, err)
		}
		if got, err := l.Get(wrong, wrong.Type.Max()); err == nil {
			t.Errorf("get from %v as flags %d of %v: %v", wrong, wrong.Flags, wrong.Type, got)
		}
	}
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.1")) {
		t.Errorf("after the errors: %v", got)
	}
}

// TestLeaveEarly leaves loops, in all ways, after the first of several
// datagrams' worth of elements; the connection must be good for whatever comes
// next.
func TestLeaveEarly(t *testing.T) {
	l := newLab(t)
	const n = 5000
	s := l.set("s", IPv4Addr, 0, slices.Collect(spread(n))...)
	nets := l.set("nets", IPv4Addr, FlagInterval, Element{Interval: iv("10.0.0.1")}, Element{Interval: iv("10.0.0.3")})
	leave := map[string]func(*Set){
		"break": func(s *Set) {
			for range l.Elements(s) {
				break
			}
		},
		"panic": func(s *Set) {
			defer func() { _ = recover() }()
			for range l.Elements(s) {
				panic("out")
			}
		},
		"Goexit": func(s *Set) {
			done := make(chan bool)
			go func() {
				defer close(done)
				for range l.Elements(s) {
					// What t.FailNow does.
					runtime.Goexit()
				}
			}()
			<-done
		},
		"break from Dump": func(s *Set) {
			for range l.Dump(unix.NFT_MSG_GETSETELEM, FamilyINet, listOf(s)) {
				break
			}
		},
	}
	next := map[string]func() error{
		"Elements":   func() error { _, err := firstError(l.Conn, s); return err },
		"Get":        func() error { _, err := l.Get(s, Key{lo: 0, typ: IPv4Addr}); return err },
		"Sets":       func() error { _, err := l.Sets(l.table); return err },
		"Generation": func() error { _, err := l.Generation(); return err },
		"Add":        func() error { return l.AddSeq(s, singles(addr("10.0.0.1"))) },
		"Delete":     func() error { return l.DeleteSeq(s, singles(addr("10.0.0.1"))) },
	}
	for how, leave := range leave {
		for what, next := range next {
			for _, s := range []*Set{s, nets} {
				leave(s)
				if err := next(); err != nil {
					t.Errorf("%s after %s out of %v: %v", what, how, s, err)
				}
			}
		}
	}
	if err := l.DeleteSeq(s, singles(addr("10.0.0.1"))); err != nil { // it is there if that was the last that came next
		t.Fatal(err)
	}
	if got := len(l.read(s)); got != n {
		t.Errorf("read %d elements, want %d", got, n)
	}
}

// listOf returns the attributes that ask for a set's elements.
func listOf(s *Set) []byte {
	var e encoder
	e.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
	e.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	return e.b
}

// TestUseInsideLoop checks that a connection says so when it is busy: without
// that, its answers would be thrown away and the loop wait for ever.
func TestUseInsideLoop(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0, slices.Collect(spread(5000))...)
	n := 0
	for el, err := range l.Elements(s) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n > 3 {
			continue
		}
		_, inner := firstError(l.Conn, s)
		_, get := l.Get(s, el.From)
		_, sets := l.Sets(l.table)
		_, set := l.Set(l.table, s.Name)
		_, count := l.Count(s)
		_, generation := l.Generation()
		for i, err := range []error{inner, get, sets, set, count, generation, l.AddSeq(s, each(el)), l.replaceSeq(s, each(el))} {
			if !errors.Is(err, errBusy) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if _, err := l.dial().Get(s, el.From); err != nil {
			t.Errorf("another connection: %v", err)
		}
	}
	if n != 5000 {
		t.Errorf("%d elements, want 5000", n)
	}
	// Interval sets are read before the loop begins.
	nets := l.set("nets", IPv4Addr, FlagInterval, Element{Interval: iv("10.0.0.1")}, Element{Interval: iv("10.0.0.3")})
	for el, err := range l.Elements(nets) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Get(nets, el.From); err != nil {
			t.Error(err)
		}
	}
}

// TestElementsAfterGrowth reads sets right after they were filled, while the
// kernel still moves their elements to a table of another size. A single dump
// misses thousands.
func TestElementsAfterGrowth(t *testing.T) {
	l := newLab(t)
	const n = 50_000
	for _, size := range []uint32{0, 1_000_000} { // grows; shrinks
		for round := range 4 {
			s := l.addSet(&Set{Name: fmt.Sprint(size, "_", round), Type: IPv4Addr, Flags: FlagTimeout, Size: size})
			if err := l.AddSeq(s, spread(n)); err != nil {
				t.Fatal(err)
			}
			var seen keySet
			got := 0
			for el, err := range l.Elements(s) {
				if err != nil {
					t.Fatal(err)
				}
				if !seen.add(el.From) {
					t.Fatalf("%v comes twice", el)
				}
				got++
			}
			if got != n {
				t.Errorf("size %d: wrote %d elements, read %d", size, n, got)
			}
		}
	}
}

// TestElementsAllocs checks that nothing is allocated per element.
func TestElementsAllocs(t *testing.T) {
	l := newLab(t)
	const n = 50_000
	s := l.addSet(&Set{Name: "s", Type: IPv4Addr, Size: n}, slices.Collect(spread(n))...)
	count := 0
	perRun := testing.AllocsPerRun(1, func() {
		count = 0
		for _, err := range l.Elements(s) {
			if err != nil {
				t.Fatal(err)
			}
			count++
		}
	})
	if count != n || perRun/n > 0.01 {
		t.Errorf("%v allocations for %d elements", perRun, count)
	}

	nets := l.set("nets", IPv4Addr, FlagInterval, slices.Collect(spread(n))...)
	perRun = testing.AllocsPerRun(1, func() {
		count = 0
		for _, err := range l.Elements(nets) {
			if err != nil {
				t.Fatal(err)
			}
			count++
		}
	})
	if count != n || perRun/n > 0.01 {
		t.Errorf("%v allocations for %d intervals", perRun, count)
	}
}

// until runs f again and again in a goroutine, until the function that it
// returns is called, which returns how often f ran, or until the test ends.
func until(t testing.TB, f func(i int) error) (stop func() int) {
	var stopped atomic.Bool
	done := make(chan int, 1)
	go func() {
		i := 0
		for ; !stopped.Load(); i++ {
			if err := f(i); err != nil {
				t.Error(err)
				break
			}
		}
		done <- i
	}()
	stop = sync.OnceValue(func() int {
		stopped.Store(true)
		return <-done
	})
	t.Cleanup(func() { stop() })
	return stop
}

// TestElementsDuringEdits reads a set while another connection adds and deletes
// all the time. No element may come twice, and none may be invented.
func TestElementsDuringEdits(t *testing.T) {
	l := newLab(t)
	const stay, come = 5000, 2000
	s := l.set("s", IPv4Addr, 0, slices.Collect(spread(stay))...)
	coming := slices.Collect(spread(stay + come))[stay:]
	writer := l.dial()
	var edits atomic.Int64
	until(t, func(i int) error {
		edits.Store(int64(i))
		return errors.Join(writer.AddSeq(s, each(coming...)), writer.DeleteSeq(s, each(coming...)))
	})
	read := 0
	for round := 0; round < 30 || edits.Load() < 2 && !t.Failed(); round++ {
		var seen, known keySet
		for el := range spread(stay + come) {
			known.add(el.From)
		}
		for el, err := range l.Elements(s) {
			if err != nil {
				t.Fatal(err)
			}
			if !seen.add(el.From) {
				t.Fatalf("%v comes twice", el)
			}
			if known.add(el.From) {
				t.Fatalf("%v was never written", el)
			}
			read++
		}
	}
	if read < 30*stay/2 {
		t.Errorf("%d elements of %d read", read, 30*stay)
	}
}

// TestElementsAroundEdits has one edit fall into each reading, now early, now
// late. All that stays has to come.
func TestElementsAroundEdits(t *testing.T) {
	r := random(t)
	l := newLab(t)
	const stay, come = 5000, 2000
	s := l.set("s", IPv4Addr, 0, slices.Collect(spread(stay))...)
	coming := slices.Collect(spread(stay + come))[stay:]
	writer := l.dial()
	start, done := make(chan func() error), make(chan error)
	go func() {
		for edit := range start {
			done <- edit()
		}
	}()
	defer close(start)
	for i := range 40 {
		edit := func() error { return writer.AddSeq(s, each(coming...)) }
		if i%2 == 1 {
			edit = func() error { return writer.DeleteSeq(s, each(coming...)) }
		}
		var seen keySet
		n, at := 0, r.IntN(stay)
		for el, err := range l.Elements(s) {
			if err != nil {
				t.Fatal(err)
			}
			if n == at {
				start <- edit
			}
			seen.add(el.From)
			n++
		}
		missing := 0
		for el := range spread(stay) {
			if seen.add(el.From) {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("edit %d, at element %d of %d read: %d of those that stay are missing", i, at, n, missing)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// TestReplaceIsAtomic reads and asks while another connection replaces one list
// of intervals by another: each reading must be one of the two lists, and what
// is in both is always there.
func TestReplaceIsAtomic(t *testing.T) {
	l := newLab(t)
	var lists [2][]Element
	var common []Key
	for i := range uint64(1500) {
		k := func(n uint64) Key { return Key{lo: i<<10 + n, typ: IPv4Addr} }
		lists[0] = append(lists[0], Element{Interval: Interval{k(100), k(200)}})
		lists[1] = append(lists[1], Element{Interval: Interval{k(150), k(300)}}, Single(k(400)))
		common = append(common, k(100+50+i%51))
	}
	s := l.set("s", IPv4Addr, FlagInterval, lists[0]...)
	want := [2][]Interval{intervalsOf(lists[0]), intervalsOf(lists[1])}

	writer := l.dial()
	var begun atomic.Int32
	stop := until(t, func(i int) error { begun.Add(1); return writer.replaceSeq(s, each(lists[(i+1)%2]...)) })
	var read [2]int
	busy := 0
	for i := 0; (i < 20 || begun.Load() <= 5) && i < 2000; i++ { // a busy machine replaces it seldom
		var got []Interval
		var err error
		for el, e := range l.Elements(s) {
			got, err = append(got, el.Interval), e
		}
		switch {
		case errors.Is(err, ErrChanged):
			busy++
		case err != nil:
			t.Fatal(err)
		case slices.Equal(got, want[0]):
			read[0]++
		case slices.Equal(got, want[1]):
			read[1]++
		default:
			t.Fatalf("read %d intervals that are neither list", len(got))
		}
		for j := range 100 {
			k := common[(100*i+j)%len(common)]
			el, err := l.Get(s, k)
			if err != nil {
				t.Fatalf("Get(%v): %v", k, err)
			}
			n := (100*i + j) % len(common)
			if el.Interval != want[0][n] && el.Interval != want[1][2*n] {
				t.Fatalf("Get(%v): %v, want %v or %v", k, el, want[0][n], want[1][2*n])
			}
		}
	}
	edits := stop()
	t.Logf("%d replacements; both lists read %v times, %d times the set changed too fast", edits, read, busy)
	if edits < 5 || read[0]+read[1] < 10 {
		t.Errorf("%d replacements, %v times read", edits, read)
	}
}

// TestReadDuringOtherEdits reads an interval set of several datagrams while
// another set of the table changes all the time.
func TestReadDuringOtherEdits(t *testing.T) {
	l := newLab(t)
	want := slices.Collect(spread(5000))
	s := l.set("s", IPv4Addr, FlagInterval, want...)
	slices.SortFunc(want, func(a, b Element) int { return a.Compare(b.Interval) })
	other := l.set("other", IPv4Addr, 0)
	writer := l.dial()
	var edits atomic.Int64
	until(t, func(i int) error {
		edits.Store(int64(i))
		return writer.RenewSeq(other, singles(addr("10.0.0.1")))
	})
	for round := 0; round < 20 || edits.Load() < 20 && !t.Failed(); round++ {
		if got := l.intervals(s); !slices.Equal(got, intervalsOf(want)) {
			t.Fatalf("read %d intervals, want %d", len(got), len(want))
		}
	}
}

// TestSteady has a set change between the datagrams of a dump.
func TestSteady(t *testing.T) {
	l := newLab(t)
	elems := slices.Collect(spread(4000))
	s := l.set("s", IPv4Addr, FlagInterval, elems...)
	writer := l.dial()
	entries := 0
	steady, err := l.dumpElements(s, func(listed) error {
		if entries++; entries%700 == 0 {
			var tx Tx
			tx.DeleteSeq(s, each(elems[entries/700]))
			if err := writer.Commit(&tx); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	if err != nil || steady || entries < 1000 {
		t.Errorf("changed meanwhile: steady %v, %v, %d entries", steady, err, entries)
	}
	if steady, err := l.dumpElements(s, func(listed) error { return nil }); err != nil || !steady {
		t.Errorf("without changes: steady %v, %v", steady, err)
	}
}

// TestElementsTooFast has an interval set change so fast that it can not be
// read, and wants an error rather than a guess.
func TestElementsTooFast(t *testing.T) {
	l := newLab(t)
	elems := slices.Collect(spread(20_000))
	s := l.set("s", IPv4Addr, FlagInterval, elems...)
	writer := l.dial()
	stop := until(t, func(i int) error {
		var tx Tx
		tx.DeleteSeq(s, each(elems[i%len(elems)]))
		if i > 0 {
			tx.AddSeq(s, each(elems[(i-1)%len(elems)]))
		}
		return writer.Commit(&tx)
	})
	lab.Await(t, "ErrChanged", func() bool {
		n, err := firstError(l.Conn, s)
		if err == nil && n < len(elems)-1 {
			t.Errorf("read %d elements of %d or one less", n, len(elems))
		}
		if err != nil && (n > 0 || !errors.Is(err, ErrChanged)) {
			t.Errorf("%d elements, %v", n, err)
		}
		return err != nil
	})
	stop()
}

// TestOrphanedEnd reads an interval set in which starts expired and left their
// ends.
func TestOrphanedEnd(t *testing.T) {
	l := newLab(t)
	l.nft("add set inet lab s { type ipv4_addr; flags interval,timeout; gc-interval 1h; }")
	s := &Set{Table: l.table, Name: "s", Type: IPv4Addr, Flags: FlagInterval | FlagTimeout}
	if err := l.AddSeq(s, each(
		Element{Interval: iv("10.0.0.0/24"), Timeout: 50 * time.Millisecond},
		Element{Interval: iv("10.0.1.0/24")},
		Element{Interval: iv("10.0.3.0/24"), Timeout: 50 * time.Millisecond},
		Element{Interval: iv("224.0.0.0/3"), Timeout: 50 * time.Millisecond},
	)); err != nil {
		t.Fatal(err)
	}
	orphans := 0
	lab.Await(t, "three intervals expire", func() bool {
		starts, ends := 0, 0
		if _, err := l.dumpElements(s, func(l listed) error {
			if l.end {
				ends++
			} else {
				starts++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		orphans = ends - starts
		return starts == 1
	})
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.1.0/24")) {
		t.Errorf("read %v, with %d orphaned ends", got, orphans)
	}
	for _, k := range []string{"10.0.0.0", "10.0.0.255", "10.0.3.7", "224.0.0.0", "255.255.255.255"} {
		if got, err := l.Get(s, addr(k)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Get(%s): %v, %v", k, got, err)
		}
	}
	for _, k := range []string{"10.0.1.0", "10.0.1.255"} {
		if got, err := l.Get(s, addr(k)); err != nil || got.Interval != iv("10.0.1.0/24") {
			t.Errorf("Get(%s): %v, %v", k, got, err)
		}
	}
}

// TestDumpAfterOneThatStopped has the kernel stop in the midst of a dump, with
// nothing left to read, as it does when it has no memory for a datagram: here a
// socket filter takes that away. The connection is good for another dump.
func TestDumpAfterOneThatStopped(t *testing.T) {
	l := newLab(t)
	fds := func() (fds []int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			fd, _ := strconv.Atoi(e.Name())
			if name, err := unix.Getsockname(fd); err == nil {
				if _, ok := name.(*unix.SockaddrNetlink); ok {
					fds = append(fds, fd)
				}
			}
		}
		return fds
	}
	others := fds()
	c := l.dial()
	own := slices.DeleteFunc(fds(), func(fd int) bool { return slices.Contains(others, fd) })
	if len(own) != 1 {
		t.Fatalf("the connection has the file descriptors %v", own)
	}
	tables := func() (n int, err error) {
		for _, err := range c.Dump(unix.NFT_MSG_GETTABLE, FamilyINet, nil) {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	program := &unix.SockFprog{Len: 1, Filter: &nothing}
	for range 3 {
		if err := unix.SetsockoptSockFprog(own[0], unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program); err != nil {
			t.Fatal(err)
		}
		if n, err := tables(); n != 0 || !errors.Is(err, errNoAnswer) {
			t.Errorf("a dump of which nothing comes: %d tables, %v", n, err)
		}
		if err := unix.SetsockoptInt(own[0], unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
			t.Fatal(err)
		}
		if n, err := tables(); n != 1 || err != nil {
			t.Errorf("the dump after it: %d tables, %v", n, err)
		}
	}
}
