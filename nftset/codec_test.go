package nftset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// randomElements returns elements for a set that do not overlap, in no order.
func randomElements(r *rand.Rand, s *Set, n int) []Element {
	var keys []Interval
	for range n {
		x := randomInterval(r, s.Type)
		switch {
		case s.Flags&FlagInterval == 0:
			x.To = x.From
		case n > 100: // short ones, or the first would leave no room for the others
			x.To = x.From.setLow(r.IntN(8))
		}
		keys = append(keys, x)
	}
	slices.SortFunc(keys, Interval.Compare)
	var out []Element
	for _, x := range keys {
		if len(out) > 0 && x.From.Compare(out[len(out)-1].To) <= 0 {
			continue
		}
		el := Element{Interval: x}
		if s.Flags&FlagTimeout != 0 && r.IntN(3) > 0 {
			el.Timeout = time.Duration(10+r.Int64N(1e10)) * time.Millisecond
			if r.IntN(2) == 0 {
				el.Remaining = min(el.Timeout, time.Duration(10+r.Int64N(1e10))*time.Millisecond)
			}
		}
		if r.IntN(4) == 0 {
			el.Comment = strings.Repeat("c", 1+r.IntN(maxElemComment))
		}
		out = append(out, el)
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// decodeMessage reads the elements of one message of ours: in an interval set
// those whose start and end are both in it.
func decodeMessage(t testing.TB, s *Set, m nfnl.Message) []Element {
	t.Helper()
	var entries []listed
	if err := elementList(s.Type, m.Attrs(), func(l listed) error {
		entries = append(entries, l)
		return nil
	}); err != nil {
		t.Fatalf("element list: %v", err)
	}
	if s.Flags&FlagInterval == 0 {
		var out []Element
		for _, l := range entries {
			if l.end {
				t.Fatalf("an end in a set without intervals: %v", l.el)
			}
			out = append(out, l.el)
		}
		return out
	}
	return pairsOf(inOrder(entries))
}

// messagesOf splits the operations of a transaction.
func messagesOf(t testing.TB, tx *Tx) []nfnl.Message {
	t.Helper()
	var out []nfnl.Message
	for b := tx.enc.b; len(b) > 0; {
		m, rest, err := nfnl.NextMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
		b = rest
	}
	return out
}

// TestElementRoundTrip encodes lists of all sizes and decodes them again,
// message by message.
func TestElementRoundTrip(t *testing.T) {
	r := random(t)
	for _, typ := range allTypes {
		for _, flags := range []Flags{0, FlagTimeout, FlagInterval, FlagInterval | FlagTimeout} {
			if (&Set{Type: typ, Flags: flags}).fault() != nil {
				continue
			}
			for _, n := range []int{0, 1, 2, 20, 6000} {
				s := &Set{Table: Table{FamilyIPv6, "filter"}, Name: "s", Type: typ, Flags: flags}
				want := randomElements(r, s, n)
				var tx Tx
				tx.AddSeq(s, each(want...))
				if tx.err != nil {
					t.Fatal(tx.err)
				}
				messages := messagesOf(t, &tx)
				if len(messages) != tx.Len() {
					t.Fatalf("%d messages, Len is %d", len(messages), tx.Len())
				}
				var got []Element
				for i, m := range messages {
					if m.Seq != uint32(i+1) || m.Type != 10<<8|12 || m.Flags != unix.NLM_F_REQUEST|unix.NLM_F_CREATE || m.Body[0] != unix.NFPROTO_IPV6 {
						t.Fatalf("message %d: sequence %d, type %#x, flags %#x, family %d", i, m.Seq, m.Type, m.Flags, m.Body[0])
					}
					got = append(got, decodeMessage(t, s, m)...)
				}
				byKeys := func(a, b Element) int { return a.Compare(b.Interval) }
				slices.SortFunc(got, byKeys)
				slices.SortFunc(want, byKeys)
				if !slices.Equal(got, want) {
					t.Fatalf("%v, flags %d: %d elements became %d, or others", typ, flags, len(want), len(got))
				}
			}
		}
	}
}

// TestMessageLimit fills messages to the brim: the length of an attribute is a
// __u16, and one that wraps loses elements in silence.
func TestMessageLimit(t *testing.T) {
	s := &Set{Table: Table{FamilyINet, "t"}, Name: "s", Type: IPv6Addr, Flags: FlagInterval | FlagTimeout}
	for _, comment := range []int{0, 1, 2, 3, 4, 100, maxElemComment} {
		var elems []Element
		for i := range uint64(2000) {
			k := Key{hi: i, lo: 0, typ: IPv6Addr}
			elems = append(elems, Element{Interval: Interval{k, Key{hi: i, lo: 5, typ: IPv6Addr}}, Timeout: time.Hour, Remaining: time.Minute, Comment: strings.Repeat("x", comment)})
		}
		var tx Tx
		tx.AddSeq(s, each(elems...))
		var got []Element
		messages := messagesOf(t, &tx)
		for i, m := range messages {
			for a, err := range nfnl.Attrs(m.Attrs()) {
				if err != nil {
					t.Fatal(err)
				}
				if n := nfnl.AttrHeaderLen + len(a.Data); a.Type == unix.NFTA_SET_ELEM_LIST_ELEMENTS && i < len(messages)-1 && (n > maxAttr || n < maxAttr-1024) {
					t.Errorf("comments of %d: message %d has a list of %d bytes", comment, i, n)
				}
			}
			got = append(got, decodeMessage(t, s, m)...)
		}
		if !slices.Equal(got, elems) {
			t.Errorf("comments of %d: %d elements became %d, or others", comment, len(elems), len(got))
		}
		if len(messages) < 3 {
			t.Errorf("comments of %d: only %d messages", comment, len(messages))
		}
	}
}

// TestElementBytes compares an element with the bytes that
// include/uapi/linux/netfilter/nf_tables.h asks for.
func TestElementBytes(t *testing.T) {
	var tx Tx
	s := &Set{Table: Table{FamilyINet, "t"}, Name: "abc", Type: InetService, Flags: FlagInterval | FlagTimeout}
	tx.AddSeq(s, each(Element{Interval: Ports(80, 90).Interval, Timeout: time.Second, Remaining: 999 * time.Millisecond, Comment: "hi"}))
	u16 := func(v int) []byte { return binary.NativeEndian.AppendUint16(nil, uint16(v)) }
	attr := func(typ int, data ...[]byte) []byte {
		b := slices.Concat(data...)
		out := slices.Concat(u16(4+len(b)), u16(typ), b)
		return append(out, make([]byte, (4-len(out)%4)%4)...)
	}
	const nested = 0x8000
	body := slices.Concat(
		[]byte{1, 0, 0, 0}, // NFPROTO_INET, version, res_id
		attr(1, []byte("t\x00")),
		attr(2, []byte("abc\x00")),
		attr(3|nested,
			attr(1|nested,
				attr(1|nested, attr(1, []byte{0, 80})),        // NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE
				attr(4, []byte{0, 0, 0, 0, 0, 0, 0x03, 0xe8}), // TIMEOUT
				attr(5, []byte{0, 0, 0, 0, 0, 0, 0x03, 0xe7}), // EXPIRATION
				attr(6, []byte{0, 3, 'h', 'i', 0})),           // USERDATA
			attr(1|nested,
				attr(1|nested, attr(1, []byte{0, 91})),
				attr(3, []byte{0, 0, 0, 1})))) // FLAGS: NFT_SET_ELEM_INTERVAL_END
	want := slices.Concat(binary.NativeEndian.AppendUint32(nil, uint32(16+len(body))),
		u16(10<<8|12), u16(0x401), // NFT_MSG_NEWSETELEM; NLM_F_REQUEST|NLM_F_CREATE
		binary.NativeEndian.AppendUint32(nil, 1), []byte{0, 0, 0, 0}, body)
	if !bytes.Equal(tx.enc.b, want) {
		t.Errorf("got  %x\nwant %x", tx.enc.b, want)
	}
	if tx.Len() != 1 || len(tx.enc.b) != len(want) {
		t.Errorf("%d messages of %d bytes, want 1 of %d", tx.Len(), len(tx.enc.b), len(want))
	}
}

// TestTimeoutEncoding says what is read back after an element was written, in
// whole milliseconds.
func TestTimeoutEncoding(t *testing.T) {
	const h, ms = time.Hour, time.Millisecond
	for _, tt := range []struct {
		set, timeout, expires    time.Duration
		wantTimeout, wantExpires time.Duration
	}{
		{0, 0, 0, 0, 0},
		{h, 0, 0, 0, 0},
		{0, h, 0, h, 0},
		{0, h, h / 2, h, h / 2},
		{0, h, h, h, h},
		// Rounded up, and never so short that it becomes "never".
		{0, 1, 0, 10 * ms, 0},
		{0, 1, 1, 10 * ms, 10 * ms},
		{0, 10*ms + 1, 10 * ms, 11 * ms, 10 * ms},
		{0, 20 * ms, 19*ms + 1, 20 * ms, 20 * ms},
		// The rest of a timeout that is the set's default, as the kernel tells
		// it.
		{h, 0, h / 2, 0, h / 2},
		{h, 0, h, 0, h},
		// More time left than the timeout: rules that update an element leave
		// it so.
		{0, h, 2 * h, 2 * h, 2 * h},
		{h, 0, 2 * h, 2 * h, 2 * h},
		{0, 0, h, h, h},
		{3 * h, h, 2 * h, 2 * h, 2 * h},
		{h, 3 * h, 2 * h, 3 * h, 2 * h},
		// As long as a Duration can be: 292 years.
		{0, math.MaxInt64, math.MaxInt64, math.MaxInt64 / ms * ms, math.MaxInt64 / ms * ms},
	} {
		s := &Set{Type: InetService, Flags: FlagTimeout, Timeout: tt.set}
		var tx Tx
		tx.AddSeq(s, each(Element{Interval: iv("22"), Timeout: tt.timeout, Remaining: tt.expires}))
		if tx.err != nil {
			t.Fatal(tx.err)
		}
		got := decodeMessage(t, s, messagesOf(t, &tx)[0])[0]
		if got.Timeout != tt.wantTimeout || got.Remaining != tt.wantExpires {
			t.Errorf("set's timeout %v, element's %v, expires %v: became %v, expires %v; want %v, expires %v",
				tt.set, tt.timeout, tt.expires, got.Timeout, got.Remaining, tt.wantTimeout, tt.wantExpires)
		}
	}
}

// TestDeleteIsBare checks that elements to be deleted bear nothing but their
// keys.
func TestDeleteIsBare(t *testing.T) {
	s := &Set{Type: IPv4Addr, Flags: FlagInterval | FlagTimeout}
	var tx Tx
	tx.DeleteSeq(s, each(Element{Interval: iv("10.0.0.0/8"), Timeout: time.Hour, Remaining: time.Minute, Comment: "x"}))
	m := messagesOf(t, &tx)[0]
	if got, want := decodeMessage(t, s, m), (Element{Interval: iv("10.0.0.0/8")}); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if m.Type != 10<<8|14 || m.Flags != unix.NLM_F_REQUEST {
		t.Errorf("type %#x, flags %#x", m.Type, m.Flags)
	}
}

func TestUserData(t *testing.T) {
	for _, text := range []string{"", "x", "ssh scan", "ümläut", "with\x00nul", strings.Repeat("x", maxElemComment)} {
		b := appendUserData([]byte("before"), udataElemComment, text)[len("before"):]
		if len(b) != len(text)+3 {
			t.Errorf("%q takes %d bytes", text, len(b))
		}
		if got := userDataString(b, udataElemComment); got != text {
			t.Errorf("%q became %q", text, got)
		}
		if got := userDataString(b, udataElemComment+7); got != "" {
			t.Errorf("%q found as another type: %q", text, got)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"\x00", ""},
		{"\x00\x00", ""},
		{"\x00\x01", ""},                 // cut off
		{"\x00\x01\x00", ""},             // the empty text
		{"\x00\x02h", ""},                // cut off
		{"\x00\x02hi", "hi"},             // no NUL
		{"\x00\x03hi\x00", "hi"},         //
		{"\x00\xffhi\x00", ""},           // says 255, has 3
		{"\x01\x04\x01\x00\x00\x00", ""}, // what nft puts on an interval that reaches the top
		{"\x01\x04\x01\x00\x00\x00\x00\x03hi\x00", "hi"},
		{"\x01\x00\x00\x03hi\x00", "hi"},
		{"\x00\x03hi\x00trailing", "hi"},
		{"\x00\x02a\x00\x00\x02b\x00", "a"}, // the first counts
		{"\x05\x05abc", ""},
	} {
		if got := userDataString([]byte(tt.in), udataElemComment); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
	r := random(t)
	for range 100_000 {
		b := make([]byte, r.IntN(12))
		for i := range b {
			b[i] = byte(r.IntN(6))
		}
		if got := userDataString(b, byte(r.IntN(4))); !bytes.Contains(b, []byte(got)) {
			t.Fatalf("%x: got %q, which is not in it", b, got)
		}
	}
}

// TestElementAt asks for each entry of each message, at its first byte, inside,
// and at its last.
func TestElementAt(t *testing.T) {
	r := random(t)
	for _, flags := range []Flags{0, FlagInterval} {
		s := &Set{Table: Table{FamilyINet, "t"}, Name: "s", Type: IPv4Addr, Flags: flags | FlagTimeout}
		elems := randomElements(r, s, 1600)
		elems = append(elems, Single(IPv4Addr.Max())) // has no end; if it is there already, no matter
		var tx Tx
		tx.AddSeq(s, each(elems...))
		n := 0
		for _, op := range tx.ops {
			msg := tx.enc.b[op.at:] // with what follows, as in describe
			m, _, _ := nfnl.NextMessage(msg)
			for a := range nfnl.Attrs(m.Attrs()) {
				if a.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					continue
				}
				at := bytes.Index(msg, a.Data)
				for list := a.Data; len(list) > 0; {
					start := at + len(a.Data) - len(list)
					entry, rest, err := nfnl.NextAttr(list)
					if err != nil {
						t.Fatal(err)
					}
					list = rest
					l, err := parseElement(s.Type, entry.Data)
					if err != nil {
						t.Fatal(err)
					}
					if l.end {
						n-- // of the interval before
					}
					for _, offset := range []int{start, start + 4, start + nfnl.AttrHeaderLen + len(entry.Data) - 1} {
						if got := elementAt(s, msg, offset); got == nil || *got != elems[n].Interval {
							t.Fatalf("flags %d: at %d: got %v, want %v", flags, offset, got, elems[n].Interval)
						}
					}
					n++
				}
			}
			for _, offset := range []int{0, 4, nfnl.HeaderLen, nfnl.HeaderLen + nfnl.GenHeaderLen, nfnl.HeaderLen + nfnl.GenHeaderLen + 8, nfnl.HeaderLen + len(m.Body), 1 << 30, -1} {
				if got := elementAt(s, msg, offset); got != nil {
					t.Errorf("flags %d: at %d, which is no element: got %v", flags, offset, got)
				}
			}
		}
		if n != len(elems) || tx.Len() < 2 {
			t.Errorf("flags %d: %d of %d elements found in %d messages", flags, n, len(elems), tx.Len())
		}
	}
}

// TestElementListErrors has lists that are no lists of the set's elements. None
// may pass for an empty one.
func TestElementListErrors(t *testing.T) {
	list := func(build func(e *encoder)) []byte {
		var e encoder
		at := e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		el := e.nest(unix.NFTA_LIST_ELEM)
		build(&e)
		e.unnest(el)
		e.unnest(at)
		return e.b
	}
	good := list(func(e *encoder) { e.key(addr("192.0.2.1")) })
	read := func(typ KeyType, b []byte) (got []Interval, err error) {
		err = elementList(typ, b, func(l listed) error {
			got = append(got, l.el.Interval)
			return nil
		})
		return got, err
	}
	if got, err := read(IPv4Addr, good); err != nil || !slices.Equal(got, ivs("192.0.2.1")) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, typ := range []KeyType{IPv6Addr, InetService, 0, 19} {
		if got, err := read(typ, good); err == nil {
			t.Errorf("an address of IPv4 read as %v: %v", typ, got)
		}
	}
	// An address and a port are one key of 8 bytes.
	concatenated := list(func(e *encoder) {
		at := e.nest(unix.NFTA_SET_ELEM_KEY)
		e.bytes(unix.NFTA_DATA_VALUE, []byte{192, 0, 2, 1, 0, 22, 0, 0})
		e.unnest(at)
	})
	if got, err := read(IPv4Addr, concatenated); err == nil {
		t.Errorf("a concatenation read as an address: %v", got)
	}
	// The catch-all element has no key, and is none of ours.
	catchAll := list(func(e *encoder) { e.u32(unix.NFTA_SET_ELEM_FLAGS, 2) })
	if got, err := read(IPv4Addr, catchAll); err != nil || len(got) > 0 {
		t.Errorf("catch-all: %v, %v", got, err)
	}
	// Attributes within that claim to be longer than what holds them, or too
	// short for their own header.
	broken := binary.NativeEndian.AppendUint32(nil, 0x0001_0009)
	tooShort := binary.NativeEndian.AppendUint32(nil, 0x0001_0003)
	for _, b := range [][]byte{broken, tooShort, broken[:3], {1}} {
		for what, build := range map[string]func(e *encoder){
			"entry": func(e *encoder) { e.b = append(e.b, b...) },
			"key":   func(e *encoder) { e.bytes(unix.NFTA_SET_ELEM_KEY, b) },
		} {
			if got, err := read(IPv4Addr, list(build)); !errors.Is(err, nfnl.ErrShort) {
				t.Errorf("%s holds %x: %v, %v", what, b, got, err)
			}
		}
	}
	for n := range good {
		if got, err := read(IPv4Addr, good[:n]); n > 0 && !errors.Is(err, nfnl.ErrShort) || len(got) > 0 {
			t.Errorf("first %d bytes: %v, %v", n, got, err)
		}
	}
}

// TestSingles yields as many as are asked for.
func TestSingles(t *testing.T) {
	keys := []Key{addr("10.0.0.1"), PortKey(22), addr("::1")}
	for stop := range len(keys) + 1 {
		var got []Element
		for el := range singles(keys...) {
			if len(got) == stop {
				break
			}
			got = append(got, el)
		}
		for i, el := range got {
			if el != (Single(keys[i])) {
				t.Errorf("element %d: %s", i, show(el))
			}
		}
		if len(got) != stop {
			t.Errorf("%d elements, want %d", len(got), stop)
		}
	}
}

func TestDuration(t *testing.T) {
	const most = 9_223_372_036_854 // milliseconds in 1<<63-1 nanoseconds
	for _, tt := range []struct {
		ms   uint64
		want time.Duration
	}{
		{0, 0}, {1, time.Millisecond}, {28_800_000, 8 * time.Hour},
		{most, time.Duration(most) * time.Millisecond}, {most + 1, time.Duration(most) * time.Millisecond},
		{math.MaxUint64, time.Duration(most) * time.Millisecond},
	} {
		if got := duration(tt.ms); got != tt.want {
			t.Errorf("%d ms: got %v, want %v", tt.ms, got, tt.want)
		}
	}
}

// TestRenewEncoding checks what Discard and Renew are made of, with keys that
// come twice.
func TestRenewEncoding(t *testing.T) {
	s := &Set{Type: IPv4Addr, Flags: FlagTimeout}
	in := []Element{
		{Interval: iv("10.0.0.1"), Timeout: time.Hour},
		{Interval: iv("10.0.0.2"), Timeout: time.Hour},
		{Interval: iv("10.0.0.1"), Timeout: 2 * time.Hour},
	}
	added := []Element{{Interval: iv("10.0.0.1"), Timeout: 2 * time.Hour}, {Interval: iv("10.0.0.2"), Timeout: time.Hour}}
	deleted := []Element{{Interval: iv("10.0.0.1")}, {Interval: iv("10.0.0.2")}}
	const add, del = 10<<8 | 12, 10<<8 | 14
	for name, tt := range map[string]struct {
		encode func(*Tx)
		types  []uint16
		elems  [][]Element
	}{
		"Discard": {func(tx *Tx) { tx.Discard(s, in...) }, []uint16{add, del}, [][]Element{added, deleted}},
		"Renew":   {func(tx *Tx) { tx.Renew(s, in...) }, []uint16{add, del, add}, [][]Element{added, deleted, added}},
		"none":    {func(tx *Tx) { tx.Renew(s) }, nil, nil},
	} {
		var tx Tx
		tt.encode(&tx)
		messages := messagesOf(t, &tx)
		if tx.err != nil || len(messages) != len(tt.types) {
			t.Errorf("%s: %d messages, %v; want %d", name, len(messages), tx.err, len(tt.types))
			continue
		}
		for i, m := range messages {
			if got := decodeMessage(t, s, m); m.Type != tt.types[i] || !slices.Equal(got, tt.elems[i]) {
				t.Errorf("%s: message %d: type %#x, %v; want %#x, %v", name, i, m.Type, got, tt.types[i], tt.elems[i])
			}
		}
	}
	if got := fmt.Sprint(in); got != "[10.0.0.1 10.0.0.2 10.0.0.1]" {
		t.Errorf("the argument has become %v", got)
	}
}

// TestEncodeAllocs checks that elements are appended to one buffer.
func TestEncodeAllocs(t *testing.T) {
	s := &Set{Table: Table{FamilyINet, "t"}, Name: "s", Type: IPv4Addr, Flags: FlagInterval | FlagTimeout}
	var elems []Element
	for i := range uint64(10_000) {
		elems = append(elems, Element{Interval: Single(Key{lo: 2 * i, typ: IPv4Addr}).Interval, Timeout: time.Hour, Comment: "a comment"})
	}
	tx := &Tx{}
	seq := each(elems...)
	tx.AddSeq(s, seq)
	messages := float64(tx.Len())
	limit := 3 * messages
	if raceDetector() {
		limit = 3 * float64(len(elems))
	}
	if n := testing.AllocsPerRun(3, func() {
		tx.Reset()
		tx.AddSeq(s, seq)
	}); n > limit {
		t.Errorf("%v allocations for %d elements in %v messages", n, len(elems), messages)
	}
}
