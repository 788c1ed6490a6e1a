package nftset

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
)

// jiffy is the longest that a kernel's unit of time can be.
const jiffy = 10 * time.Millisecond

// checkElements compares what was read with what was written at a time since.
// The kernel counts time in jiffies, which it cuts.
func checkElements(t testing.TB, s *Set, got, want []Element, since time.Time) {
	t.Helper()
	elapsed := time.Since(since)
	byKeys := func(a, b Element) int { return a.Compare(b.Interval) }
	got, want = slices.Clone(got), slices.Clone(want)
	slices.SortFunc(got, byKeys)
	slices.SortFunc(want, byKeys)
	if len(got) != len(want) {
		t.Fatalf("%v has %d elements, want %d", s, len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Interval != w.Interval || g.Comment != w.Comment {
			t.Fatalf("%v: got %v %q, want %v %q", s, g, g.Comment, w, w.Comment)
		}
		if g.Timeout > w.Timeout || g.Timeout < w.Timeout-jiffy {
			t.Fatalf("%v: %v: timeout %v, want %v", s, g, g.Timeout, w.Timeout)
		}
		left := w.Remaining
		if left == 0 {
			left = w.Timeout
		}
		if left == 0 {
			left = s.Timeout
		}
		// Jiffies lag behind where a tick came late, and then catch up.
		const lag = 100 * time.Millisecond
		if g.Remaining > left || left > 0 && g.Remaining < left-elapsed-lag || left > 0 && g.Remaining == 0 {
			t.Fatalf("%v: %v: expires %v, want %v less %v", s, g, g.Remaining, left, elapsed)
		}
	}
}

// keep gives timeouts an hour more: none must expire during a test.
func keep(elems []Element) {
	for i := range elems {
		if elems[i].Timeout > 0 {
			elems[i].Timeout += time.Hour
		}
		if elems[i].Remaining > 0 {
			elems[i].Remaining += time.Hour
		}
	}
}

// show prints all there is of elements, which print as their intervals.
func show(elems ...Element) string {
	var b strings.Builder
	for _, el := range elems {
		fmt.Fprintf(&b, "{%v timeout %v expires %v comment %q} ", el.Interval, el.Timeout, el.Remaining, el.Comment)
	}
	return b.String()
}

// TestEdit takes sets of all kinds through Add, Delete and Replace.
func TestEdit(t *testing.T) {
	r := random(t)
	l := newLab(t)
	for _, typ := range allTypes {
		for _, flags := range []Flags{0, FlagTimeout, FlagDynamic | FlagTimeout, FlagInterval, FlagInterval | FlagTimeout} {
			if (&Set{Type: typ, Flags: flags}).fault() != nil {
				continue
			}
			for _, timeout := range []time.Duration{0, 30 * time.Hour} {
				if timeout > 0 && flags&FlagTimeout == 0 {
					continue
				}
				s := l.addSet(&Set{Name: fmt.Sprint("s", typ, uint32(flags), timeout > 0), Type: typ, Flags: flags, Timeout: timeout})
				elems := randomElements(r, s, 2000)
				keep(elems)
				begin := time.Now()
				if err := l.AddSeq(s, each(elems...)); err != nil {
					t.Fatal(err)
				}
				checkElements(t, s, l.read(s), elems, begin)

				half := len(elems) / 2
				if err := l.DeleteSeq(s, each(elems[:half]...)); err != nil {
					t.Fatal(err)
				}
				checkElements(t, s, l.read(s), elems[half:], begin)

				others := slices.Concat(elems[half/2:half], elems[half+half/2:])
				begin = time.Now()
				if err := l.replaceSeq(s, each(others...)); err != nil {
					t.Fatal(err)
				}
				checkElements(t, s, l.read(s), others, begin)

				if err := l.replaceSeq(s, each()); err != nil {
					t.Fatal(err)
				}
				checkElements(t, s, l.read(s), nil, begin)
			}
		}
	}
}

// spread yields n addresses that have no order, none twice.
func spread(n uint64) iter.Seq[Element] {
	return func(yield func(Element) bool) {
		for i := range n {
			if !yield(Single(Key{lo: i * 2654435761 % (1 << 32), typ: IPv4Addr})) {
				return
			}
		}
	}
}

// TestReplaceManyPrefixes has 25,000 prefixes of all lengths in one
// transaction, and then as many others. They are not more because the kernel
// walks them all for each datagram of a dump: 100,000 take it ten times as long.
func TestReplaceManyPrefixes(t *testing.T) {
	t.Parallel()
	_, limit, err := sendLimits()
	if err != nil {
		t.Fatal(err)
	}
	n := min(25_000, uint64(limit/70)) // without privilege it may be fewer
	l := newLab(t)
	for _, typ := range []KeyType{IPv4Addr, IPv6Addr} {
		s := l.set("nets"+typ.String(), typ, FlagInterval)
		for _, shift := range []int{0, 1} {
			var want []Interval
			var elems []Element
			for i := range n {
				k := Key{lo: i<<15 + uint64(shift)<<14, typ: typ}
				if typ == IPv6Addr {
					k.hi, k.lo = k.lo, 0
				}
				x := Interval{k, k.setLow(int(i % 15))}
				want = append(want, x)
				elems = append(elems, Element{Interval: x})
			}
			if err := l.replaceSeq(s, each(elems...)); err != nil {
				t.Fatal(err)
			}
			if got := l.intervals(s); !slices.Equal(got, want) {
				t.Fatalf("%v: read %d intervals, or others than the %d written", typ, len(got), len(want))
			}
		}
	}
}

// TestAddMany reads many addresses back. They are not more because the kernel
// walks a set from its start for each datagram of a dump: a million takes it
// half a minute.
func TestAddMany(t *testing.T) {
	t.Parallel()
	const n = 250_000
	l := newLab(t)
	s := l.addSet(&Set{Name: "many", Type: IPv4Addr, Size: uint32(n)})
	if err := l.AddSeq(s, spread(n)); err != nil {
		t.Fatal(err)
	}
	var wanted keySet
	for el := range spread(n) {
		wanted.add(el.From)
	}
	got := uint64(0)
	for el, err := range l.Elements(s) {
		if err != nil {
			t.Fatal(err)
		}
		if wanted.add(el.From) {
			t.Fatalf("read %v, which was not written", el)
		}
		got++
	}
	if got != n {
		t.Errorf("wrote %d addresses, read %d", n, got)
	}
	if err := l.AddSeq(s, singles(addr("0.0.0.1"))); !errors.Is(err, unix.ENFILE) {
		t.Errorf("one more than the size of the set: %v", err)
	}
}

// TestExpiry waits for elements to expire: by their own timeout, by that of the
// set, and by what is left of it.
func TestExpiry(t *testing.T) {
	l := newLab(t)
	for _, flags := range []Flags{FlagTimeout, FlagTimeout | FlagInterval} {
		s := l.addSet(&Set{Name: fmt.Sprint("s", uint32(flags)), Type: IPv4Addr, Flags: flags, Timeout: 300 * time.Millisecond})
		type fate struct {
			el    Element
			lives time.Duration
		}
		fates := []fate{
			{Element{Interval: iv("10.0.0.1")}, 300 * time.Millisecond},
			{Element{Interval: iv("10.0.0.2"), Timeout: 100 * time.Millisecond}, 100 * time.Millisecond},
			{Element{Interval: iv("10.0.0.3"), Timeout: time.Hour, Remaining: 200 * time.Millisecond}, 200 * time.Millisecond},
			{Element{Interval: iv("10.0.0.4"), Remaining: 50 * time.Millisecond}, 50 * time.Millisecond},
			{Element{Interval: iv("10.0.0.5"), Timeout: 1}, 10 * time.Millisecond}, // and not for ever
			{Element{Interval: iv("10.0.0.6"), Timeout: time.Hour}, time.Hour},
		}
		begin := time.Now()
		for _, f := range fates {
			if err := l.AddSeq(s, each(f.el)); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range fates {
			if f.lives == time.Hour {
				if got, err := l.Get(s, f.el.From); err != nil || got.Remaining > time.Hour || got.Remaining < time.Hour-time.Minute {
					t.Errorf("%v: %s, %v", f.el, show(got), err)
				}
				continue
			}
			lab.Await(t, fmt.Sprint(f.el, " expires"), func() bool {
				got, err := l.Get(s, f.el.From)
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				if err == nil && (got.Remaining <= 0 || got.Remaining > f.lives) {
					t.Fatalf("%v lives %v and expires in %v", f.el, f.lives, got.Remaining)
				}
				return err != nil
			})
			if elapsed := time.Since(begin); elapsed < f.lives-jiffy {
				t.Errorf("%v is gone after %v, want %v", f.el, elapsed, f.lives)
			}
		}
		if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.6")) {
			t.Errorf("left: %v", got)
		}
	}
	// Without a default timeout, elements stay.
	s := l.set("stay", IPv4Addr, FlagTimeout, Element{Interval: iv("10.0.0.1")})
	if got, err := l.Get(s, addr("10.0.0.1")); err != nil || got.Timeout != 0 || got.Remaining != 0 {
		t.Errorf("%s, %v", show(got), err)
	}
}

// TestRenew gives elements new times, whatever they had.
func TestRenew(t *testing.T) {
	l := newLab(t)
	for _, flags := range []Flags{FlagTimeout, FlagTimeout | FlagInterval} {
		for _, timeout := range []time.Duration{0, time.Hour} {
			s := l.addSet(&Set{Name: fmt.Sprint("s", uint32(flags), timeout > 0), Type: IPv4Addr, Flags: flags, Timeout: timeout})
			old := []Element{
				{Interval: iv("10.0.0.1"), Timeout: 2 * time.Hour, Remaining: time.Hour, Comment: "old"},
				{Interval: iv("10.0.0.2"), Timeout: 3 * time.Hour},
				{Interval: iv("10.0.0.3")},
				{Interval: iv("10.0.0.4"), Timeout: 4 * time.Hour},
				{Interval: iv("10.0.0.9"), Timeout: 5 * time.Hour}, // not to be touched
			}
			renewed := []Element{
				{Interval: iv("10.0.0.1"), Timeout: 2 * time.Hour, Remaining: 119 * time.Minute, Comment: "new"},
				{Interval: iv("10.0.0.2"), Timeout: 30 * time.Minute},
				{Interval: iv("10.0.0.3"), Timeout: 6 * time.Hour, Remaining: time.Minute},
				{Interval: iv("10.0.0.4")},                         // back to the default
				{Interval: iv("10.0.0.5"), Timeout: time.Hour * 7}, // absent
				{Interval: iv("10.0.0.6"), Remaining: time.Minute * 8},
			}
			if timeout == 0 {
				renewed = renewed[:5] // there is no default to have 8 minutes left of
			}
			begin := time.Now()
			if err := l.AddSeq(s, each(old...)); err != nil {
				t.Fatal(err)
			}
			if err := l.RenewSeq(s, each(renewed...)); err != nil {
				t.Fatal(err)
			}
			checkElements(t, s, l.read(s), append(renewed, old[4]), begin)
		}
	}
}

// TestRenewRead writes back what was read, as a restart does: nothing must get
// more time, or less, or be refused.
func TestRenewRead(t *testing.T) {
	r := random(t)
	l := newLab(t)
	for _, flags := range []Flags{FlagTimeout, FlagTimeout | FlagInterval} {
		s := l.addSet(&Set{Name: fmt.Sprint("s", uint32(flags)), Type: IPv4Addr, Flags: flags, Timeout: time.Hour})
		elems := randomElements(r, s, 500)
		keep(elems)
		for i := range elems {
			if elems[i].Timeout == 0 {
				elems[i].Remaining = time.Minute + time.Duration(r.IntN(3000_000))*time.Millisecond // left of the default
			}
		}
		begin := time.Now()
		if err := l.AddSeq(s, each(elems...)); err != nil {
			t.Fatal(err)
		}
		read := l.read(s)
		if err := l.RenewSeq(s, each(read...)); err != nil {
			t.Fatal(err)
		}
		checkElements(t, s, l.read(s), elems, begin)
		// And into a set of the same kind that is described without its
		// timeout.
		var tx Tx
		tx.FlushSet(s)
		l.commit(&tx)
		bare := &Set{Table: s.Table, Name: s.Name, Type: s.Type, Flags: s.Flags}
		if err := l.RenewSeq(bare, each(read...)); err != nil {
			t.Fatal(err)
		}
		for i, el := range l.read(s) {
			if left := read[i].Remaining; el.Interval != read[i].Interval || el.Remaining > left || el.Remaining < left-time.Since(begin)-2*jiffy {
				t.Fatalf("%s became %s", show(read[i]), show(el))
			}
		}
	}
}

// TestDiscard deletes elements that are there and others that are not.
func TestDiscard(t *testing.T) {
	l := newLab(t)
	for _, flags := range []Flags{0, FlagTimeout, FlagInterval, FlagInterval | FlagTimeout} {
		s := l.set(fmt.Sprint("s", uint32(flags)), IPv4Addr, flags)
		there := singles(addr("10.0.0.1"), addr("10.0.0.2"), addr("10.0.0.3"), addr("255.255.255.255"))
		gone := singles(addr("10.0.0.2"), addr("10.0.0.7"), addr("255.255.255.255"), addr("0.0.0.0"), addr("10.0.0.2"))
		if err := l.AddSeq(s, there); err != nil {
			t.Fatal(err)
		}
		var tx Tx
		tx.Discard(s, slices.Collect(gone)...)
		l.commit(&tx)
		if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.1", "10.0.0.3")) {
			t.Errorf("flags %d: left %v", flags, got)
		}
		if err := l.AddSeq(s, there); err != nil {
			t.Fatal(err)
		}
		if err := l.DeleteSeq(s, gone); err != nil {
			t.Fatal(err)
		}
		if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.1", "10.0.0.3")) {
			t.Errorf("flags %d: left %v after Delete", flags, got)
		}
	}
	s := l.set("n", IPv4Addr, FlagInterval, Element{Interval: iv("10.0.0.0/8")}, Element{Interval: iv("224.0.0.0/3")})
	if err := l.DeleteSeq(s, each(Element{Interval: iv("224.0.0.0/3")}, Element{Interval: iv("192.0.2.0/24")})); err != nil {
		t.Fatal(err)
	}
	// Part of an interval is not an element.
	if err := l.DeleteSeq(s, each(Element{Interval: iv("10.0.0.0/9")})); !errors.Is(err, unix.EEXIST) {
		t.Errorf("delete part of an interval: %v", err)
	}
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.0/8")) {
		t.Errorf("left %v", got)
	}
}

// TestDiscardExpired has an element that expired and that the kernel has not
// collected: a plain deletion is refused.
func TestDiscardExpired(t *testing.T) {
	l := newLab(t)
	l.nft("add set inet lab s { type ipv4_addr; flags timeout; gc-interval 1h; }")
	s := &Set{Table: l.table, Name: "s", Type: IPv4Addr, Flags: FlagTimeout}
	for _, do := range []func(elems iter.Seq[Element]) error{
		func(elems iter.Seq[Element]) error { return l.DeleteSeq(s, elems) },
		func(elems iter.Seq[Element]) error { return l.RenewSeq(s, elems) },
	} {
		brief := Element{Interval: iv("10.0.0.1"), Timeout: 20 * time.Millisecond}
		if err := l.AddSeq(s, each(brief)); err != nil {
			t.Fatal(err)
		}
		lab.Await(t, "it expires", func() bool {
			_, err := l.Get(s, brief.From)
			return errors.Is(err, os.ErrNotExist)
		})
		var tx Tx
		tx.DeleteSeq(s, each(brief))
		if err := l.Commit(&tx); !errors.Is(err, unix.ENOENT) {
			t.Errorf("plain deletion: %v", err)
		}
		if err := do(singles(brief.From)); err != nil {
			t.Error(err)
		}
	}
	if got := l.read(s); len(got) != 1 || got[0].Remaining != 0 {
		t.Errorf("renewed: %s", show(got...))
	}
}

// TestListener adds many elements while somebody listens to the events and does
// not read them, and checks whose events they are.
func TestListener(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0)
	listener, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: l.host.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := listener.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		t.Fatal(err)
	}
	if err := l.AddSeq(s, singles(addr("0.0.0.1"))); err != nil {
		t.Fatal(err)
	}
	events, err := listener.Receive()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Header.PID != l.PortID() {
			t.Errorf("an event of %d, want %d", e.Header.PID, l.PortID())
		}
	}
	const n = 3*BatchSize + 1
	if err := l.AddSeq(s, spread(n)); err != nil {
		t.Error(err)
	}
	if got := len(l.read(s)); got != n+1 {
		t.Errorf("added %d, read %d", n+1, got)
	}
	if err := l.DeleteSeq(s, spread(n)); err != nil {
		t.Error(err)
	}
	if got := l.intervals(s); !slices.Equal(got, ivs("0.0.0.1")) {
		t.Errorf("left: %v", got)
	}
}

// TestCreate adds elements, all of them or, if one is there, none. One whose time
// is over is not there.
func TestCreate(t *testing.T) {
	l := newLab(t)
	key := func(n byte) Key { return AddrKey(netip.AddrFrom4([4]byte{192, 0, 2, n})) }
	s := l.set("s", IPv4Addr, FlagDynamic|FlagTimeout, Single(key(1)).For(time.Hour), Single(key(2)).For(10*time.Millisecond))
	for deadline := time.Now().Add(lab.Patience); ; {
		if _, err := l.Get(s, key(2)); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil || time.Now().After(deadline) {
			t.Fatalf("the element should expire: %v", err)
		}
	}
	var tx, again Tx
	tx.CreateSeq(s, singles(key(2), key(3)))
	l.commit(&tx)
	again.CreateSeq(s, singles(key(4), key(1), key(5)))
	one := Single(key(1)).Interval
	checkOpError(t, l.Commit(&again), "create element", s.String(), &one, unix.EEXIST)
	if got := l.intervals(s); len(got) != 3 {
		t.Errorf("the set holds %v", got)
	}
}
