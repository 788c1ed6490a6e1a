package nftset

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// checkOpError compares an error with what it should name.
func checkOpError(t testing.TB, err error, op, object string, element *Interval, cause error) {
	t.Helper()
	var got *OpError
	if !errors.As(err, &got) {
		t.Fatalf("got %v, want an OpError", err)
	}
	if got.Op != op || got.Object != object || !errors.Is(err, cause) {
		t.Errorf("got %v: op %q, object %q; want %q, %q, %v", err, got.Op, got.Object, op, object, cause)
	}
	switch {
	case (got.Element == nil) != (element == nil):
		t.Errorf("got element %v, want %v", got.Element, element)
	case element != nil && *got.Element != *element:
		t.Errorf("got element %v, want %v", got.Element, element)
	}
}

// positions are the indices to try in a list of n elements that fills several
// messages.
func positions(n int) []int { return []int{0, 1, n / 3, n/2 + 1, n - 2, n - 1} }

// TestOverlap has one interval among 10,000 overlap what is there.
func TestOverlap(t *testing.T) {
	l := newLab(t)
	there := Element{Interval: iv("10.0.0.100-10.0.0.200")}
	s := l.set("s", IPv4Addr, FlagInterval, there)
	for _, overlap := range ivs("10.0.0.150", "10.0.0.0/24", "10.0.0.50-10.0.0.100", "10.0.0.200-10.0.0.201", "10.0.0.100") {
		const n = 7000
		for _, at := range positions(n) {
			var elems []Element
			for i := range uint64(n) {
				elems = append(elems, Element{Interval: Interval{Key{lo: i << 8, typ: IPv4Addr}, Key{lo: i<<8 + 9, typ: IPv4Addr}}})
			}
			elems[at].Interval = overlap
			var tx Tx
			tx.AddSeq(s, each(elems...))
			if tx.Len() < 3 {
				t.Fatalf("%d messages", tx.Len())
			}
			err := l.Commit(&tx)
			checkOpError(t, err, "add element", s.String(), &overlap, unix.EEXIST)
			if want := fmt.Sprintf("add element %v of %v: it overlaps an interval that is there", overlap, s); err != nil && !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
	// The same bounds are no overlap, nor are neighbours.
	if err := l.AddSeq(s, each(there, Element{Interval: iv("10.0.0.99")}, Element{Interval: iv("10.0.0.201")})); err != nil {
		t.Error(err)
	}
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.99", "10.0.0.100-10.0.0.200", "10.0.0.201")) {
		t.Errorf("left: %v", got)
	}
}

// TestOverlapWithin has intervals overlap in one transaction.
func TestOverlapWithin(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, FlagInterval)
	err := l.AddSeq(s, each(Element{Interval: iv("10.0.0.0/8")}, Element{Interval: iv("10.1.0.0/16")}))
	second := iv("10.1.0.0/16")
	checkOpError(t, err, "add element", s.String(), &second, unix.EEXIST)
	if got := l.read(s); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestFull adds one element more than a set takes.
func TestFull(t *testing.T) {
	l := newLab(t)
	const size = 6000
	for _, flags := range []Flags{0, FlagTimeout} {
		s := l.addSet(&Set{Name: fmt.Sprint("s", uint32(flags)), Type: IPv6Addr, Flags: flags, Size: size})
		var elems []Element
		for i := range uint64(size + 10) {
			elems = append(elems, Single(Key{hi: i, lo: i, typ: IPv6Addr}))
		}
		var tx Tx
		tx.AddSeq(s, each(elems...))
		err := l.Commit(&tx)
		checkOpError(t, err, "add element", s.String(), &elems[size].Interval, unix.ENFILE)
		if want := fmt.Sprintf("add element %v of %v: the set is full", elems[size], s); err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if got := l.read(s); len(got) != 0 {
			t.Errorf("%d elements of the transaction are there", len(got))
		}
		if err := l.AddSeq(s, each(elems[:size]...)); err != nil {
			t.Error(err)
		}
	}
}

// TestDeleteAbsent deletes one element that is not there among many that are:
// nothing of the transaction is done.
func TestDeleteAbsent(t *testing.T) {
	l := newLab(t)
	for _, flags := range []Flags{0, FlagTimeout, FlagInterval} {
		const n = 9000
		elems := slices.Collect(spread(n))
		s := l.set(fmt.Sprint("s", uint32(flags)), IPv4Addr, flags, elems...)
		other := l.set(fmt.Sprint("other", uint32(flags)), IPv4Addr, flags)
		for _, at := range positions(n) {
			list := slices.Clone(elems)
			list[at].Interval = iv("1.2.3.4")
			var tx Tx
			tx.AddSeq(other, singles(addr("10.0.0.1")))
			tx.DeleteSeq(s, each(list...))
			err := l.Commit(&tx)
			checkOpError(t, err, "delete element", s.String(), &list[at].Interval, os.ErrNotExist)
			if want := fmt.Sprintf("delete element 1.2.3.4 of %v: there is none", s); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if a, b := len(l.read(s)), len(l.read(other)); a != n || b != 0 {
			t.Errorf("flags %d: %d and %d elements, want %d and none", flags, a, b, n)
		}
	}
	s := l.set("part", IPv4Addr, FlagInterval, Element{Interval: iv("10.0.0.0/8")})
	for _, part := range ivs("10.0.0.0/9", "10.0.0.0", "10.255.255.255", "10.0.0.0/7") {
		var tx Tx
		tx.DeleteSeq(s, each(Element{Interval: part}))
		checkOpError(t, l.Commit(&tx), "delete element", s.String(), &part, os.ErrNotExist)
	}
}

// TestAbsentObjects edits what is not there. The error is not about an element.
func TestAbsentObjects(t *testing.T) {
	l := newLab(t)
	none := &Set{Table: l.table, Name: "none", Type: IPv4Addr}
	nowhere := &Set{Table: Table{FamilyINet, "none"}, Name: "s", Type: IPv4Addr}
	element := singles(addr("10.0.0.1"))
	for _, tt := range []struct {
		op, object string
		do         func(*Tx)
	}{
		{"add element", none.String(), func(tx *Tx) { tx.AddSeq(none, element) }},
		{"add element", nowhere.String(), func(tx *Tx) { tx.AddSeq(nowhere, element) }},
		{"delete element", none.String(), func(tx *Tx) { tx.DeleteSeq(none, element) }},
		{"flush set", none.String(), func(tx *Tx) { tx.FlushSet(none) }},
		{"delete set", none.String(), func(tx *Tx) { tx.DeleteSet(none) }},
		{"add set", nowhere.String(), func(tx *Tx) { tx.AddSet(nowhere) }},
		{"delete table", "inet none", func(tx *Tx) { tx.DeleteTable(nowhere.Table) }},
		{"make coffee", "inet lab pot", func(tx *Tx) {
			var e encoder
			e.string(unix.NFTA_CHAIN_TABLE, l.table.Name)
			e.string(unix.NFTA_CHAIN_NAME, "pot")
			tx.Message(unix.NFT_MSG_DELCHAIN, 0, FamilyINet, e.b, "make coffee", "inet lab pot")
		}},
	} {
		// It is named wherever it stands.
		for _, before := range []int{0, 1, 5} {
			var tx Tx
			for range before {
				tx.AddTable(l.table)
			}
			tt.do(&tx)
			tx.AddTable(l.table)
			checkOpError(t, l.Commit(&tx), tt.op, tt.object, nil, os.ErrNotExist)
		}
	}
}

// TestOtherProperties adds sets over others of the same name.
func TestOtherProperties(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, FlagTimeout, Element{Interval: iv("10.0.0.1")})
	for _, other := range []Set{
		{Type: IPv6Addr, Flags: FlagTimeout},
		{Type: InetService, Flags: FlagTimeout},
		{Type: IPv4Addr},
		{Type: IPv4Addr, Flags: FlagTimeout | FlagInterval},
		{Type: IPv4Addr, Flags: FlagTimeout | FlagDynamic},
	} {
		other.Table, other.Name = s.Table, s.Name
		var tx Tx
		tx.AddSet(&other)
		err := l.Commit(&tx)
		checkOpError(t, err, "add set", s.String(), nil, unix.EEXIST)
		if want := "add set inet lab s: it exists with other properties"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.1")) {
		t.Errorf("left: %v", got)
	}
}

// TestManyFailures has so many operations fail that the kernel can not queue
// the answers.
func TestManyFailures(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0)
	for _, n := range []int{2, 100, 300, 1000, 7000} {
		var tx Tx
		tx.AddSeq(s, singles(addr("10.0.0.1")))
		for i := range n {
			tx.DeleteSet(&Set{Table: l.table, Name: fmt.Sprint("none", i), Type: IPv4Addr})
		}
		err := l.Commit(&tx)
		checkOpError(t, err, "delete set", "inet lab none0", nil, os.ErrNotExist)
		var op *OpError
		if errors.As(err, &op) && (op.Others < 1 || op.Others > n-1 || n <= 100 && op.Others != n-1) {
			t.Errorf("%d operations fail: %d others", n, op.Others)
		}
		if n == 2 {
			if want := "delete set inet lab none0: there is none (and 1 more)"; err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if got := l.read(s); len(got) != 0 {
			t.Errorf("%d operations fail: %v was added", n, got)
		}
		if err := l.AddSeq(s, singles(addr("10.0.0.2"))); err != nil {
			t.Errorf("after %d failures: %v", n, err)
		}
		if err := l.DeleteSeq(s, singles(addr("10.0.0.2"))); err != nil {
			t.Errorf("after %d failures: %v", n, err)
		}
	}
}

// TestManyOperations has thousands succeed: one acknowledgement must be enough.
func TestManyOperations(t *testing.T) {
	l := newLab(t)
	var tx Tx
	for i := range 3000 {
		tx.AddSet(&Set{Table: l.table, Name: fmt.Sprint("s", i), Type: IPv4Addr})
	}
	if err := l.Check(&tx); err != nil {
		t.Fatal(err)
	}
	l.commit(&tx)
	if sets, err := l.Sets(l.table); err != nil || len(sets) != 3000 {
		t.Errorf("%d sets, %v", len(sets), err)
	}
}

// TestChanged commits for a generation that is no more.
func TestChanged(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0)
	generation, err := l.Generation()
	if err != nil {
		t.Fatal(err)
	}
	tx := &Tx{Generation: generation}
	tx.AddSeq(s, singles(addr("10.0.0.1")))
	if err := l.Check(tx); err != nil {
		t.Errorf("check: %v", err)
	}
	if err := l.Commit(tx); err != nil {
		t.Errorf("commit: %v", err)
	}
	// Now it was us who changed it.
	tx = &Tx{Generation: generation}
	tx.AddSeq(s, singles(addr("10.0.0.2")))
	for _, err := range []error{l.Check(tx), l.Commit(tx)} {
		checkOpError(t, err, "commit transaction", "", nil, ErrChanged)
		if want := "commit transaction: the ruleset changed meanwhile"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if tx.Generation, err = l.Generation(); err != nil {
		t.Fatal(err)
	}
	l.commit(tx)
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.1", "10.0.0.2")) {
		t.Errorf("left: %v", got)
	}
}

// TestCheck asks about transactions that would succeed, and others that would
// not, and wants nothing changed.
func TestCheck(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, FlagInterval, Element{Interval: iv("10.0.0.0/8")})
	before, err := l.Generation()
	if err != nil {
		t.Fatal(err)
	}
	var good, bad Tx
	good.FlushSet(s)
	good.AddSeq(s, singles(addr("10.0.0.1")))
	good.AddSet(&Set{Table: l.table, Name: "new", Type: IPv4Addr})
	good.DeleteTable(l.table)
	if err := l.Check(&good); err != nil {
		t.Error(err)
	}
	inside := iv("10.0.0.1")
	bad.AddSeq(s, singles(inside.From))
	checkOpError(t, l.Check(&bad), "add element", s.String(), &inside, unix.EEXIST)
	after, err := l.Generation()
	if err != nil || after != before {
		t.Errorf("generation %d became %d, %v", before, after, err)
	}
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.0/8")) {
		t.Errorf("left: %v", got)
	}
	if sets, err := l.Sets(l.table); err != nil || len(sets) != 1 {
		t.Errorf("sets: %v, %v", sets, err)
	}
	// What was checked can be extended, and committed.
	good = Tx{}
	good.FlushSet(s)
	if err := l.Check(&good); err != nil {
		t.Error(err)
	}
	good.AddSeq(s, singles(addr("10.0.0.2")))
	l.commit(&good)
	if got := l.intervals(s); !slices.Equal(got, ivs("10.0.0.2")) {
		t.Errorf("left: %v", got)
	}
}

// TestArguments has faults that are found before anything is sent.
func TestArguments(t *testing.T) {
	l := newLab(t)
	hash := l.set("hash", IPv4Addr, 0)
	timed := l.set("timed", IPv4Addr, FlagTimeout)
	nets := l.set("nets", IPv4Addr, FlagInterval)
	unknown := &Set{Table: l.table, Name: "unknown", Type: 19}
	long := strings.Repeat("x", 254)
	one := iv("10.0.0.1")
	before, err := l.Generation()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		set  *Set
		el   Element
		want string
	}{
		{hash, Element{Interval: iv("::1")}, "add element ::1 of inet lab hash: a ipv6_addr does not fit a set of ipv4_addr"},
		{hash, Element{Interval: iv("22")}, "add element 22 of inet lab hash: a inet_service does not fit a set of ipv4_addr"},
		{hash, Element{}, "add element invalid IP of inet lab hash: a type 0 does not fit a set of ipv4_addr"},
		{nets, Element{Interval: Interval{addr("10.0.0.1"), addr("::1")}}, "add element 10.0.0.1-::1 of inet lab nets: a ipv4_addr does not fit a set of ipv4_addr"},
		{nets, Element{Interval: Interval{addr("10.0.0.9"), addr("10.0.0.1")}}, "add element 10.0.0.9-10.0.0.1 of inet lab nets: it ends before it begins"},
		{hash, Element{Interval: iv("10.0.0.0/8")}, "add element 10.0.0.0/8 of inet lab hash: the set takes single keys, no intervals"},
		{hash, Element{Interval: one, Timeout: time.Hour}, "add element 10.0.0.1 of inet lab hash: the set takes no timeouts"},
		{hash, Element{Interval: one, Remaining: time.Hour}, "add element 10.0.0.1 of inet lab hash: the set takes no timeouts"},
		{timed, Element{Interval: one, Timeout: -1}, "add element 10.0.0.1 of inet lab timed: negative timeout"},
		{timed, Element{Interval: one, Remaining: -1}, "add element 10.0.0.1 of inet lab timed: negative timeout"},
		{hash, Element{Interval: one, Comment: long[:252]}, "add element 10.0.0.1 of inet lab hash: comment of 252 bytes, at most 251 are allowed"},
		{unknown, Element{Interval: one}, "add element 10.0.0.1 of inet lab unknown: unknown key type type 19"},
	} {
		first := Element{Interval: iv("10.0.0.7")}
		checks := map[string]error{
			"Add":     l.AddSeq(tt.set, each(first, tt.el)),
			"Renew":   l.RenewSeq(tt.set, each(first, tt.el)),
			"Delete":  l.DeleteSeq(tt.set, each(first, tt.el)),
			"Replace": l.replaceSeq(tt.set, each(first, tt.el)),
		}
		// The first fault is the one that counts.
		var tx Tx
		tx.AddSeq(tt.set, each(tt.el))
		tx.AddSet(&Set{Table: l.table, Name: "later", Type: 20})
		checks["Check"] = l.Check(&tx)
		for name, err := range checks {
			if tt.set == unknown && err != nil {
				continue // is about the first of them
			}
			if err == nil || err.Error() != tt.want {
				t.Errorf("%s: got %v, want %s", name, err, tt.want)
			}
			var op *OpError
			if !errors.As(err, &op) || op.Element == nil || *op.Element != tt.el.Interval {
				t.Errorf("%s: %v names %v", name, err, op.Element)
			}
		}
	}
	for _, tt := range []struct {
		set  Set
		want string
	}{
		{*unknown, "add set inet lab unknown: unknown key type type 19"},
	} {
		var tx Tx
		tx.AddSet(&tt.set)
		if err := l.Commit(&tx); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
	after, err := l.Generation()
	if err != nil || after != before {
		t.Errorf("generation %d became %d, %v", before, after, err)
	}
	for _, s := range []*Set{hash, timed, nets} {
		if got := l.read(s); len(got) != 0 {
			t.Errorf("%v: %v", s, got)
		}
	}
}

func TestOpError(t *testing.T) {
	one := iv("192.0.2.1")
	for _, tt := range []struct {
		err  *OpError
		want string
		is   []error
	}{
		{&OpError{Op: "add element", Object: "inet t s", Element: &one, Err: unix.EEXIST}, "add element 192.0.2.1 of inet t s: it overlaps an interval that is there", []error{unix.EEXIST, os.ErrExist}},
		{&OpError{Op: "add set", Object: "inet t s", Err: unix.EEXIST}, "add set inet t s: it exists with other properties", []error{unix.EEXIST, os.ErrExist}},
		{&OpError{Op: "add element", Object: "inet t s", Err: unix.ENFILE}, "add element inet t s: the set is full", []error{unix.ENFILE}},
		{&OpError{Op: "read set", Object: "inet t s", Err: unix.ENOENT}, "read set inet t s: there is none", []error{unix.ENOENT, os.ErrNotExist}},
		{&OpError{Op: "delete set", Object: "inet t s", Err: unix.EBUSY}, "delete set inet t s: it is in use", []error{unix.EBUSY}},
		{&OpError{Op: "commit transaction", Err: unix.ERESTART}, "commit transaction: the ruleset changed meanwhile", []error{unix.ERESTART, ErrChanged}},
		{&OpError{Op: "commit transaction", Err: unix.EPERM}, "commit transaction: operation not permitted", []error{unix.EPERM, os.ErrPermission}},
		{&OpError{Op: "add rule", Object: "inet t c", Err: unix.EOPNOTSUPP, Text: "no such thing", Others: 3}, "add rule inet t c: operation not supported (no such thing) (and 3 more)", []error{unix.EOPNOTSUPP, errors.ErrUnsupported}},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
		wrapped := fmt.Errorf("apply: %w", tt.err)
		for _, target := range []error{os.ErrNotExist, os.ErrPermission, os.ErrExist, ErrChanged, errors.ErrUnsupported,
			unix.EEXIST, unix.ENFILE, unix.ENOENT, unix.EBUSY, unix.ERESTART, unix.EPERM, unix.EOPNOTSUPP} {
			if got, want := errors.Is(wrapped, target), slices.Contains(tt.is, target); got != want {
				t.Errorf("%v is %v: %v", tt.err, target, got)
			}
		}
	}
}
