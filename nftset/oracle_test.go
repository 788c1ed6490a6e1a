package nftset

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nftSet is a set as `nft -j list set` tells it.
type nftSet struct {
	Type          nftType
	Comment       string
	Flags         []string
	Timeout, Size int
	Elem          []nftElem
}

// nftType is the name of a type, or the names of a concatenation's.
type nftType string

func (typ *nftType) UnmarshalJSON(b []byte) error {
	if b[0] != '[' {
		return json.Unmarshal(b, (*string)(typ))
	}
	var parts []string
	err := json.Unmarshal(b, &parts)
	*typ = nftType(strings.Join(parts, " . "))
	return err
}

// nftElem is an element: "10.0.0.1", 22, {"prefix": …}, {"range": …},
// {"concat": …}, or one of them in {"elem": {"val": …}}. A number is a port
// here; listJSON knows better.
type nftElem struct {
	Element
}

func (e *nftElem) UnmarshalJSON(b []byte) error {
	var full struct {
		Elem *struct {
			Val              nftElem
			Timeout, Expires int64 // seconds
			Comment          string
		}
		Prefix *struct {
			Addr netip.Addr
			Len  int
		}
		Range, Concat []nftElem
	}
	switch b[0] {
	case '"':
		a, err := netip.ParseAddr(strings.Trim(string(b), `"`))
		e.Interval = Single(AddrKey(a)).Interval
		return err
	case '{':
		if err := json.Unmarshal(b, &full); err != nil {
			return err
		}
	default:
		var port uint16
		err := json.Unmarshal(b, &port)
		e.Interval = Single(PortKey(port)).Interval
		return err
	}
	switch {
	case full.Elem != nil:
		e.Interval, e.Comment = full.Elem.Val.Interval, full.Elem.Comment
		e.Timeout, e.Remaining = time.Duration(full.Elem.Timeout)*time.Second, time.Duration(full.Elem.Expires)*time.Second
	case full.Prefix != nil:
		e.Interval = Prefix(netip.PrefixFrom(full.Prefix.Addr, full.Prefix.Len)).Interval
	case len(full.Range) == 2:
		e.Interval = Interval{full.Range[0].From, full.Range[1].To}
	case len(full.Concat) == 2:
		e.Interval = Single(AddrPortKey(netip.AddrPortFrom(full.Concat[0].From.Addr(), full.Concat[1].From.Port()))).Interval
	default:
		return fmt.Errorf("an element unlike the others: %s", b)
	}
	return nil
}

// listJSON asks nft for a set.
func (l *fixture) listJSON(name string) nftSet {
	l.t.Helper()
	out := l.nft("", "--json", "--numeric-protocol", "list", "set", "inet", l.table.Name, name)
	var doc struct {
		Nftables []struct{ Set *nftSet }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		l.t.Fatalf("%v in what nft says: %s", err, out)
	}
	for _, object := range doc.Nftables {
		if object.Set != nil {
			s := object.Set
			for i := range s.Elem {
				if el := &s.Elem[i]; s.Type == nftType(InetProto.String()) {
					el.Interval = Single(ProtoKey(uint8(el.From.Port()))).Interval
				}
			}
			return *s
		}
	}
	l.t.Fatalf("no set in what nft says: %s", out)
	return nftSet{}
}

// TestNftReads has nft read what this package wrote, and compares it with what
// this package reads.
func TestNftReads(t *testing.T) {
	r := random(t)
	l := newLab(t)
	for _, typ := range allTypes {
		for _, flags := range []Flags{0, FlagTimeout, FlagInterval, FlagInterval | FlagTimeout} {
			if (&Set{Type: typ, Flags: flags}).fault() != nil {
				continue
			}
			s := &Set{Name: fmt.Sprintf("s%d_%d", uint32(typ), flags), Type: typ, Flags: flags, Size: 5000}
			if flags&FlagTimeout != 0 {
				s.Timeout = time.Hour * 100
			}
			elems := randomElements(r, s, 300)
			keep(elems)
			for i := range elems {
				elems[i].Comment = elems[i].Comment[:min(len(elems[i].Comment), 128)] // NFTNL_UDATA_COMMENT_MAXLEN: more than that nft does not read
				// nft tells whole seconds.
				elems[i].Timeout = elems[i].Timeout.Truncate(time.Second)
				elems[i].Remaining = min(elems[i].Remaining.Truncate(time.Second), elems[i].Timeout)
			}
			begin := time.Now()
			l.addSet(s, elems...)
			told := l.listJSON(s.Name)
			read := l.read(s)

			if told.Type != nftType(typ.String()) || told.Size != 5000 || time.Duration(told.Timeout)*time.Second != s.Timeout {
				t.Errorf("%v: nft says type %s, size %d, timeout %d, comment %q", s, told.Type, told.Size, told.Timeout, told.Comment)
			}
			if got, want := slices.Contains(told.Flags, "interval"), flags&FlagInterval != 0; got != want {
				t.Errorf("%v: nft says flags %v", s, told.Flags)
			}
			var got []Element
			for _, el := range told.Elem {
				got = append(got, el.Element)
			}
			slices.SortFunc(got, func(a, b Element) int { return a.Compare(b.Interval) })
			if len(got) != len(read) || len(got) != len(elems) {
				t.Fatalf("%v: wrote %d elements, nft reads %d, we read %d", s, len(elems), len(got), len(read))
			}
			slack := time.Since(begin) + 2*time.Second
			for i, g := range got {
				w := read[i]
				if d := w.Timeout - g.Timeout; g.Interval != w.Interval || g.Comment != w.Comment || d < 0 || d >= time.Second || (w.Remaining-g.Remaining).Abs() > slack {
					t.Fatalf("%v: nft says %s, we %s", s, show(g), show(w))
				}
			}
		}
	}
}

// TestNftWrites has this package read what nft wrote: it orders its intervals
// in its own way, and marks the gaps before and behind.
func TestNftWrites(t *testing.T) {
	l := newLab(t)
	for _, tt := range []struct {
		typ   KeyType
		flags Flags
		text  string
		want  []Interval
	}{
		{IPv4Addr, 0, "10.0.0.2, 10.0.0.1, 0.0.0.0, 255.255.255.255", ivs("0.0.0.0", "10.0.0.1", "10.0.0.2", "255.255.255.255")},
		{IPv4Addr, FlagInterval, "10.0.0.0/8, 11.0.0.0/8, 12.0.0.1, 12.0.0.2-12.0.0.9", ivs("10.0.0.0/8", "11.0.0.0/8", "12.0.0.1", "12.0.0.2-12.0.0.9")},
		{IPv4Addr, FlagInterval, "0.0.0.0/0", ivs("0.0.0.0/0")},
		{IPv4Addr, FlagInterval, "0.0.0.0, 255.255.255.255", ivs("0.0.0.0", "255.255.255.255")},
		{IPv4Addr, FlagInterval, "0.0.0.0/1, 128.0.0.0/1", ivs("0.0.0.0/1", "128.0.0.0/1")},
		{IPv4Addr, FlagInterval, "240.0.0.0/4, 10.0.0.0/8", ivs("10.0.0.0/8", "240.0.0.0/4")},
		{IPv6Addr, FlagInterval, "::/0", ivs("::/0")},
		{IPv6Addr, FlagInterval, "fe80::/10, ff00::/8, ::1", ivs("::1", "fe80::/10", "ff00::/8")},
		{InetService, 0, "22, 0, 65535", ivs("0", "22", "65535")},
		{InetProto, 0, "udp, tcp, 132", []Interval{iv("tcp"), iv("udp"), Single(ProtoKey(132)).Interval}},
		{IPv4AddrPort, 0, "192.0.2.1 . 23, 192.0.2.1 . 22, 0.0.0.0 . 0", ivs("0.0.0.0 . 0", "192.0.2.1 . 22", "192.0.2.1 . 23")},
		{IPv6AddrPort, 0, "2001:db8::1 . 23, ::1 . 65535", ivs("::1 . 65535", "2001:db8::1 . 23")},
		{InetService, FlagInterval, "0-65535", ivs("0-65535")},
		{InetService, FlagInterval, "5900-5910, 22, 23, 65535", ivs("22", "23", "5900-5910", "65535")},
	} {
		s := &Set{Table: l.table, Name: "s", Type: tt.typ, Flags: tt.flags}
		flags := ""
		if tt.flags != 0 {
			flags = "flags interval;"
		}
		l.nft(fmt.Sprintf("add set inet lab s { type %v; %s elements = { %s } }", tt.typ, flags, tt.text))
		if got := l.intervals(s); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.text, got, tt.want)
		}
		for _, x := range tt.want {
			for _, k := range []Key{x.From, x.To} {
				if got, err := l.Get(s, k); err != nil || got.Interval != x {
					t.Errorf("%s: Get(%v): %v, %v; want %v", tt.text, k, got, err, x)
				}
			}
		}
		// What nft wrote we can delete.
		var elems []Element
		for _, x := range tt.want {
			elems = append(elems, Element{Interval: x})
		}
		var tx Tx
		tx.DeleteSeq(s, each(elems...))
		l.commit(&tx)
		if out := l.listJSON("s"); len(out.Elem) != 0 {
			t.Errorf("%s: deleted, yet nft says %v", tt.text, out.Elem)
		}
		l.nft("delete set inet lab s")
	}
}

// TestCommentLimits writes the longest comments there can be.
func TestCommentLimits(t *testing.T) {
	l := newLab(t)
	for _, typ := range allTypes {
		for _, flags := range []Flags{FlagTimeout, FlagTimeout | FlagInterval} {
			if (&Set{Type: typ, Flags: flags}).fault() != nil {
				continue
			}
			s := l.addSet(&Set{Name: fmt.Sprint("s", typ, flags), Type: typ, Flags: flags, Timeout: time.Hour})
			el := Element{Interval: Single(typ.Max().prev()).Interval, Timeout: 2 * time.Hour, Comment: strings.Repeat("e", maxElemComment)}
			if err := l.AddSeq(s, each(el)); err != nil {
				t.Errorf("comment of %d: %v", len(el.Comment), err)
			}
			if got := l.read(s); len(got) != 1 || got[0].Comment != el.Comment {
				t.Errorf("read %s", show(got...))
			}
		}
	}
	// The limits are those of the kernel: it refuses one byte more.
	refuse := func(tx *Tx, what string) {
		t.Helper()
		if err := l.Commit(tx); err == nil {
			t.Errorf("the kernel takes %s", what)
		}
	}
	s := &Set{Table: l.table, Name: "s", Type: IPv4Addr}
	l.addSet(s)
	var e encoder
	e.string(unix.NFTA_SET_ELEM_LIST_TABLE, l.table.Name)
	e.string(unix.NFTA_SET_ELEM_LIST_SET, "s")
	list := e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	el := e.nest(unix.NFTA_LIST_ELEM)
	e.key(addr("10.0.0.1"))
	e.bytes(unix.NFTA_SET_ELEM_USERDATA, make([]byte, maxElemComment+4))
	e.unnest(el)
	e.unnest(list)
	var tx Tx
	tx.Message(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, FamilyINet, e.b, "add element", "")
	refuse(&tx, "more user data with an element")
}
