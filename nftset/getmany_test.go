package nftset

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// getMany returns the elements of those keys that a set has, and the error that
// ended them.
func getMany(c *Conn, s *Set, keys ...Key) (elems []Element, err error) {
	for el, err := range c.GetMany(s, slices.Values(keys)) {
		if err != nil {
			return elems, err
		}
		elems = append(elems, el)
	}
	return elems, nil
}

// keysOf yields the first key of each element.
func keysOf(elems []Element) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for i := range elems {
			if !yield(elems[i].From) {
				return
			}
		}
	}
}

// TestGetMany asks sets of all kinds for keys that are there and others, some
// of them twice, in lists around the length that is asked for at once.
func TestGetMany(t *testing.T) {
	r := random(t)
	l := newLab(t)
	for _, typ := range allTypes {
		for _, flags := range []Flags{0, FlagTimeout, FlagInterval, FlagInterval | FlagTimeout} {
			s := &Set{Name: fmt.Sprint("s", typ, uint32(flags)), Type: typ, Flags: flags}
			if s.fault() != nil {
				continue
			}
			elems := randomElements(r, s, 1000)
			keep(elems)
			for i := range elems {
				elems[i].Remaining = 0 // it would differ by the time that passes
			}
			begin := time.Now()
			l.addSet(s, elems...)
			for _, n := range []int{0, 1, pipeline - 1, pipeline, pipeline + 1, 2*pipeline + 1} {
				var keys []Key
				for range n {
					k := randomKey(r, typ)
					if r.IntN(3) > 0 {
						el := elems[r.IntN(len(elems))]
						k = [2]Key{el.From, el.To}[r.IntN(2)]
					}
					keys = append(keys, k)
				}
				var want []Element
				for _, k := range keys {
					if i := slices.IndexFunc(elems, func(el Element) bool { return el.Contains(k) }); i >= 0 {
						want = append(want, elems[i])
					}
				}
				got, err := getMany(l.Conn, s, keys...)
				if err != nil || len(got) != len(want) {
					t.Fatalf("%v: of %d keys %d are there, want %d: %v", s, n, len(got), len(want), err)
				}
				for i, el := range got {
					if el.Interval != want[i].Interval {
						t.Fatalf("%v: the %dth is %v, want %v", s, i, el, want[i])
					}
					checkElements(t, s, got[i:i+1], want[i:i+1], begin)
				}
			}
		}
	}
}

// TestGetManyLongAnswers asks for elements with the longest answers. The usual
// receive buffer holds as many as are asked for at once. Of a smaller one, down
// to the smallest that the kernel allows, those that were lost come all the
// same, in their places.
func TestGetManyLongAnswers(t *testing.T) {
	l := newLab(t)
	elems := slices.Collect(spread(3*pipeline + 3))
	for i := range elems {
		elems[i].Comment = strings.Repeat("x", maxElemComment)
	}
	keys := slices.Collect(keysOf(elems))
	for _, flags := range []Flags{0, FlagInterval} {
		s := l.set(strings.Repeat("s", 254)+fmt.Sprint(uint32(flags)), IPv4Addr, flags, elems...)
		for _, buffer := range []int{212992, 64 << 10, 2} {
			c := l.dial()
			if err := c.wire.SetReadBuffer(buffer / 2); err != nil { // which the kernel doubles
				t.Fatal(err)
			}
			before := c.seq
			got, err := getMany(c, s, keys...)
			if err != nil || !slices.Equal(got, elems) {
				t.Errorf("flags %d, buffer %d: got %d elements of %d, or others; %v", flags, buffer, len(got), len(elems), err)
			}
			if again := int(c.seq-before) > len(elems); flags == 0 && again != (buffer < 100<<10) {
				t.Errorf("buffer %d: %d questions for %d elements", buffer, c.seq-before, len(elems))
			}
		}
	}
}

// TestGetManyLoop breaks out of the loop, uses the connection inside of it, and
// begins one inside of another.
func TestGetManyLoop(t *testing.T) {
	l := newLab(t)
	elems := slices.Collect(spread(2*pipeline + 50))
	s := l.set("s", IPv4Addr, 0, elems...)
	n := 0
	for el, err := range l.GetMany(s, keysOf(elems)) {
		if err != nil {
			t.Fatal(err)
		}
		if el != elems[n] {
			t.Fatalf("the %dth is %v, want %v", n, el, elems[n])
		}
		if n++; n%40 == 0 {
			if again, err := getMany(l.Conn, s, el.From, elems[0].From); err != nil || !slices.Equal(again, []Element{el, elems[0]}) {
				t.Fatalf("inside of the loop: %v, %v", again, err)
			}
			if err := l.DeleteSeq(s, each(el)); err != nil {
				t.Fatal(err)
			}
		}
		if n == pipeline+20 {
			break
		}
	}
	if n != pipeline+20 {
		t.Errorf("%d elements", n)
	}
	if got, err := l.Count(s); err != nil || got != len(elems)-n/40 {
		t.Errorf("after the loop %d elements, %v", got, err)
	}
	for range l.Elements(s) {
		if got, err := getMany(l.Conn, s, elems[0].From); !errors.Is(err, errBusy) {
			t.Errorf("inside of a dump: %v, %v", got, err)
		}
	}
}

// TestGetManyErrors asks sets that are not there, or not what they are said to
// be.
func TestGetManyErrors(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0, Element{Interval: iv("10.0.0.1")}, Element{Interval: iv("10.0.0.2")})
	l.nft("add set inet lab p { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 20-30 }; }")
	a, b := addr("10.0.0.1"), addr("10.0.0.2")
	for _, tt := range []struct {
		set  Set
		keys []Key
		n    int
		want string
	}{
		{*s, []Key{a, addr("::1"), b}, 1, "get element ::1 of inet lab s: a ipv6_addr does not fit a set of ipv4_addr"},
		{Set{Table: l.table, Name: "none", Type: IPv4Addr}, []Key{a, b}, 0, "describe set inet lab none: there is none"},
		{Set{Table: l.table, Name: "none", Type: IPv4Addr, Flags: FlagInterval}, []Key{a}, 0, "describe set inet lab none: there is none"},
		{Set{Table: Table{FamilyIPv4, "lab"}, Name: "s", Type: IPv4Addr}, []Key{a}, 0, "describe set ip lab s: there is none"},
		{Set{Table: l.table, Name: "s", Type: IPv6Addr}, []Key{addr("::1")}, 0, "get elements of set inet lab s: invalid argument"},
		{Set{Table: l.table, Name: "s", Type: IPv6Addr, Flags: FlagInterval}, []Key{addr("::1")}, 0, "get element ::1 of inet lab s: invalid argument"},
		{Set{Table: l.table, Name: "s", Type: 99}, []Key{a}, 0, "get element 10.0.0.1 of inet lab s: unknown key type type 99"},
		{Set{Table: l.table, Name: "p", Type: IPv4AddrPort}, []Key{pairOf("192.0.2.1:22")}, 0, "get elements of set inet lab p: it holds intervals"},
	} {
		got, err := getMany(l.Conn, &tt.set, tt.keys...)
		if len(got) != tt.n || err == nil || err.Error() != tt.want {
			t.Errorf("%v, %v; want %d and %s", got, err, tt.n, tt.want)
		}
		if absent := strings.HasSuffix(tt.want, "there is none"); errors.Is(err, os.ErrNotExist) != absent {
			t.Errorf("%v is os.ErrNotExist: %v", err, !absent)
		}
	}
	if got, err := getMany(l.Conn, s, a, addr("10.0.0.3"), b); err != nil || len(got) != 2 {
		t.Errorf("after the errors: %v, %v", got, err)
	}
}

// TestGetManySetGoes deletes the set while its keys are asked for: what comes
// after must not pass for absent.
func TestGetManySetGoes(t *testing.T) {
	l := newLab(t)
	elems := slices.Collect(spread(pipeline + 1))
	s := l.set("s", IPv4Addr, 0, elems...)
	n := 0
	var fault error
	for _, err := range l.GetMany(s, keysOf(elems)) {
		if fault = err; err != nil {
			continue
		}
		if n++; n == 1 {
			var tx Tx
			tx.DeleteSet(s)
			l.commit(&tx)
		}
	}
	if n != pipeline || !errors.Is(fault, os.ErrNotExist) || !errors.Is(fault, unix.ENOENT) {
		t.Errorf("%d elements, then %v", n, fault)
	}
}

// TestGetManyDuringEdits asks for elements that stay while others come and go,
// by which the kernel's table grows and shrinks. A dump misses some.
func TestGetManyDuringEdits(t *testing.T) {
	l := newLab(t)
	const stay, come = 2000, 5000
	elems := slices.Collect(spread(stay + come))
	s := l.set("s", IPv4Addr, 0, elems[:stay]...)
	writer := l.dial()
	var edits atomic.Int64
	until(t, func(i int) error {
		edits.Store(int64(i))
		return errors.Join(writer.AddSeq(s, each(elems[stay:]...)), writer.DeleteSeq(s, each(elems[stay:]...)))
	})
	for round := 0; round < 50 || edits.Load() < 2 && !t.Failed(); round++ {
		n := 0
		for el, err := range l.GetMany(s, keysOf(elems[:stay])) {
			if err != nil || el != elems[n] {
				t.Fatalf("round %d, the %dth: %v, %v", round, n, el, err)
			}
			n++
		}
		if n != stay {
			t.Errorf("round %d: %d elements, want %d", round, n, stay)
		}
	}
}

// TestGetManyAllocs checks that keys take no memory each.
func TestGetManyAllocs(t *testing.T) {
	l := newLab(t)
	const n = 20_000
	elems := slices.Collect(spread(n))
	s := l.addSet(&Set{Name: "s", Type: IPv4Addr, Size: n}, elems...)
	got := 0
	allocs := testing.AllocsPerRun(1, func() {
		got = 0
		for _, err := range l.GetMany(s, keysOf(elems)) {
			if err != nil {
				t.Fatal(err)
			}
			got++
		}
	})
	if got != n || allocs/n > 0.2 {
		t.Errorf("%v allocations for %d elements", allocs, got)
	}
}
