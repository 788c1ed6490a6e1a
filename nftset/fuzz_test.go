package nftset

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// Two dumps of Linux 6.18, as read from the socket of a little-endian machine.
// nft 1.0.6 had made the sets:
//
//	set bans { type ipv4_addr; counter; timeout 8h; elements = {
//		0.0.0.0 timeout 1h, 192.0.2.1, 192.0.2.2 timeout 1d expires 23h comment "ssh" } }
//	set nets { type ipv6_addr; flags interval,timeout; elements = {
//		2001:db8::/32 timeout 30d comment "whole", 2001:db9::1, 2001:db9::2-2001:db9::5, ffff::/16 } }
const (
	dumpOfBans = `
		280100000c0a0200010000009a3d000001000003080001006c6162000900020062616e730000000000010300600001000c00010008000100c0000202
		2c0007000c000100636f756e746572001c0002000c00010000000000000000000c00020000000000000000000c0004000000000005265c000c000500
		0000000004ef6d800a0006000004737368000000540001000c00010008000100000000002c0007000c000100636f756e746572001c0002000c000100
		00000000000000000c00020000000000000000000c000400000000000036ee800c000500000000000036ee80480001000c00010008000100c0000201
		2c0007000c000100636f756e746572001c0002000c00010000000000000000000c00020000000000000000000c0005000000000001b77400`
	dumpOfNets = `
		5c0100000c0a0200030000009a3d000001000003080001006c616200090002006e6574730000000034010300280001001800010014000100ffff0000
		0000000000000000000000000a000600010401000000000024000100180001001400010020010db90000000000000000000000060800030000000001
		1c000100180001001400010020010db9000000000000000000000002240001001800010014000100
		20010db900000000000000000000000208000300000000011c00010018000100
		1400010020010db9000000000000000000000001240001001800010014000100
		20010db900000000000000000000000008000300000000014000010018000100
		1400010020010db80000000000000000000000000c000400000000009a7ec800
		0c000500000000009a7ec7fc0c000600000677686f6c65002400010018000100
		14000100000000000000000000000000000000000800030000000001`
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// attrsOf returns the attributes of the first message of a datagram.
func attrsOf(datagram []byte) []byte {
	m, _, err := nfnl.NextMessage(datagram)
	if err != nil {
		return nil
	}
	return m.Attrs()
}

// mergeSeeds are lists of intervals as fuzzMerge reads them: a byte for the
// type, a key, and a key or a number of low bits.
var mergeSeeds = [][]byte{
	{},
	{0, 10, 0, 0, 0, 10, 255, 255, 255},
	{0, 10, 0, 0, 0, 10, 127, 255, 255, 0, 10, 128, 0, 0, 10, 255, 255, 255},
	{2, 0, 22, 0, 22, 2, 0, 23, 0, 80, 2, 255, 255, 255, 255},
	{0, 255, 255, 255, 255, 255, 255, 255, 255, 2, 0, 0, 255, 255},
	slices.Concat([]byte{1}, make([]byte, 16), bytes.Repeat([]byte{255}, 16), []byte{1}, bytes.Repeat([]byte{7}, 32)),
}

// FuzzMerge checks what Merge promises of any list.
func FuzzMerge(f *testing.F) {
	for _, seed := range mergeSeeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in []Interval
		for len(b) > 0 && len(in) < 200 {
			typ := keyTypes[int(b[0])%len(keyTypes)]
			n := typ.Len()
			if b = b[1:]; len(b) < 2*n {
				break
			}
			from, _ := ParseKey(typ, b[:n])
			to, _ := ParseKey(typ, b[n:2*n])
			if to.Compare(from) < 0 {
				from, to = to, from
			}
			in = append(in, Interval{from, to})
			b = b[2*n:]
		}
		before := slices.Clone(in)
		out := Merge(in)
		if !slices.Equal(in, before) {
			t.Fatalf("the argument was %v and is %v", before, in)
		}
		if err := checkMerged(in, out); err != nil {
			t.Fatalf("merged %v: %v", in, err)
		}
		for _, x := range out {
			prefixes := x.Prefixes()
			if x.From.Type() == InetService {
				continue
			}
			if first, last := prefixes[0], prefixes[len(prefixes)-1]; Prefix(first).Interval.From.Addr() != x.From.Addr().Unmap() || lastOf(last) != x.To.Addr() {
				t.Fatalf("prefixes of %v: %v", x, prefixes)
			}
		}
	})
}

// elementListSeeds are attributes of element messages.
var elementListSeeds = []struct {
	typ   KeyType
	attrs []byte
}{
	{IPv4Addr, attrsOf(unhex(dumpOfBans))},
	{IPv6Addr, attrsOf(unhex(dumpOfNets))},
	{IPv4Addr, attrsOf(unhex(dumpOfNets))}, // of another type
	{InetService, nil},
	{IPv4Addr, []byte{4, 0, 3, 0}},
	{IPv4Addr, []byte{8, 0, 3, 0, 4, 0, 1, 0}},
	{IPv4Addr, []byte{3, 0, 3, 0}},
	{InetService, encoded(&Set{Type: InetService, Flags: FlagInterval | FlagTimeout},
		Element{Interval: Ports(5900, 5910).Interval, Timeout: time.Hour, Remaining: time.Minute, Comment: "vnc"}, Element{Interval: Ports(0, 65535).Interval})},
	{InetProto, encoded(&Set{Type: InetProto}, Element{Interval: iv("tcp")})},
	{IPv4AddrPort, encoded(&Set{Type: IPv4AddrPort}, Element{Interval: iv("192.0.2.1 . 23")}, Element{Interval: iv("0.0.0.0 . 23")})},
	{IPv6AddrPort, encoded(&Set{Type: IPv6AddrPort}, Element{Interval: iv("2001:db8::1 . 23")})},
}

// encoded returns the attributes of the message that adds elements.
func encoded(s *Set, elems ...Element) []byte {
	var tx Tx
	tx.AddSeq(s, each(elems...))
	return attrsOf(tx.enc.b)
}

// rewritten is what an element is after it was written and read again.
func rewritten(el Element) Element {
	for _, d := range []*time.Duration{&el.Timeout, &el.Remaining} {
		if *d > 0 {
			*d = max(*d, 10*time.Millisecond)
		}
	}
	el.Timeout = max(el.Timeout, el.Remaining)
	return el
}

// FuzzElementList checks that no bytes make the decoder panic, and that what it
// makes of them is written and read unchanged.
func FuzzElementList(f *testing.F) {
	for _, seed := range elementListSeeds {
		f.Add(uint32(seed.typ), seed.attrs)
	}
	f.Fuzz(func(t *testing.T, typ uint32, attrs []byte) {
		var found []listed
		before := bytes.Clone(attrs)
		if err := elementList(KeyType(typ), attrs, func(l listed) error {
			found = append(found, l)
			return nil
		}); err == nil {
			// Who stops at the first gets the first.
			n := 0
			if err := elementList(KeyType(typ), attrs, func(listed) error { n++; return errLeft }); (err == nil) != (len(found) == 0) || n != min(1, len(found)) {
				t.Fatalf("of %d elements, stopped after %d: %v", len(found), n, err)
			}
		}
		if !bytes.Equal(attrs, before) {
			t.Fatal("the bytes have changed")
		}
		s := &Set{Type: KeyType(typ), Flags: FlagTimeout}
		for _, l := range found {
			if l.el.From.Type() != s.Type || l.el.To != l.el.From {
				t.Fatalf("in a list of %v: %v to %v of %v", s.Type, l.el.From, l.el.To, l.el.From.Type())
			}
			if len(l.el.Comment) > maxElemComment {
				continue
			}
			var tx Tx
			tx.AddSeq(s, each(l.el))
			if tx.err != nil {
				t.Fatalf("%+v: %v", l.el, tx.err)
			}
			if got, want := decodeMessage(t, s, messagesOf(t, &tx)[0])[0], rewritten(l.el); got != want {
				t.Fatalf("wrote %+v, read %+v, want %+v", l.el, got, want)
			}
		}
		// Whatever the entries are, pairs of them are intervals that do not
		// overlap.
		pairs := pairsOf(found)
		for i, el := range pairs {
			if el.To.Compare(el.From) < 0 || el.To.Type() != s.Type {
				t.Fatalf("%v to %v", el.From, el.To)
			}
			if i > 0 && pairs[i-1].To.Compare(el.From) >= 0 {
				t.Fatalf("%v and %v overlap", pairs[i-1], el)
			}
		}
	})
}

// messageSeeds are datagrams.
var messageSeeds = [][]byte{
	unhex(dumpOfBans),
	unhex(dumpOfNets),
	{},
	make([]byte, 16),
	slices.Concat(unhex(dumpOfBans), unhex(dumpOfBans)[:20]),
	// NLMSG_DONE with an errno; NLMSG_ERROR with offset and text.
	unhex("14000000 0300 0200 01000000 9a3d0000 feffffff"),
	unhex(`38000000 0200 0003 01000000 9a3d0000 efffffff 1c000000 0c0a 0104 01000000 00000000
		0800 0200 2c000000 0b00 0100 6f6f707321200000`),
	// NLMSG_NOOP without a body; NFT_MSG_NEWSET.
	unhex("10000000 0100 0000 01000000 9a3d0000"),
	unhex(`48000000 090a 0200 01000000 9a3d0000 01000003 0600 0100 74000000 0600 0200 73000000 0800 0300 00000004
		0800 0400 00000007 0800 0500 00000004 0c00 0900 0800 0100 0000ffff`),
}

// FuzzMessages takes a datagram apart in all the ways that answers of the
// kernel are.
func FuzzMessages(f *testing.F) {
	for _, seed := range messageSeeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		before := bytes.Clone(datagram)
		for b := datagram; len(b) > 0; {
			m, rest, err := nfnl.NextMessage(b)
			if err != nil {
				break
			}
			if len(rest) > len(b)-nfnl.HeaderLen {
				t.Fatalf("no progress: %d of %d bytes left", len(rest), len(b))
			}
			n := int(binary.NativeEndian.Uint32(b))
			if !bytes.Equal(m.Body, b[16:n]) || m.Type != binary.NativeEndian.Uint16(b[4:]) || m.Seq != binary.NativeEndian.Uint32(b[8:]) {
				t.Fatalf("%x read as %+v", b[:n], m)
			}
			_, _ = nfnl.ParseReply(m)
			if m.Type >= unix.NLMSG_MIN_TYPE {
				sum := 0
				for a, err := range nfnl.Attrs(m.Attrs()) {
					if err == nil {
						sum += nfnl.AttrHeaderLen + len(a.Data)
					}
				}
				if sum > len(m.Attrs()) {
					t.Fatalf("%d bytes of attributes in %d", sum, len(m.Attrs()))
				}
				m.Resource()
				_ = elementList(IPv4Addr, m.Attrs(), func(listed) error { return nil })
				if s, _, err := parseSet(m); err == nil && (s.Timeout < 0 || s.Flags&FlagInterval != 0 && s.Count != -1) {
					t.Fatalf("%+v", s)
				}
			}
			b = rest
		}
		if !bytes.Equal(datagram, before) {
			t.Fatal("the bytes have changed")
		}
	})
}

// TestFuzzSeeds checks that there are seeds, and that they are what they claim
// to be.
func TestFuzzSeeds(t *testing.T) {
	if len(mergeSeeds) < 5 || len(elementListSeeds) < 5 || len(messageSeeds) < 5 {
		t.Errorf("%d, %d and %d seeds", len(mergeSeeds), len(elementListSeeds), len(messageSeeds))
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return // the dumps are for the fuzzers to chew on, no more
	}
	counts := map[string]int{}
	for _, b := range messageSeeds {
		for m, err := range nfnl.Messages(b) {
			if err != nil || m.Type < unix.NLMSG_MIN_TYPE {
				continue
			}
			if s, _, err := parseSet(m); err == nil && s.Name == "s" && s.Size == 65535 && s.Type == IPv4Addr && s.Flags == FlagInterval {
				counts["set"]++
			}
			_ = elementList(IPv4Addr, m.Attrs(), func(listed) error { counts["element"]++; return nil })
		}
		if m, _, err := nfnl.NextMessage(b); err == nil && m.Type == unix.NLMSG_ERROR {
			if r, err := nfnl.ParseReply(m); err == nil && r.Errno == unix.EEXIST && r.Offset == 44 && r.Text == "oops! " {
				counts["reply"]++
			}
		}
	}
	if counts["set"] != 1 || counts["reply"] != 1 || counts["element"] < 6 {
		t.Errorf("found in the datagrams: %v", counts)
	}
	entries, comments := 0, 0
	for _, seed := range elementListSeeds {
		_ = elementList(seed.typ, seed.attrs, func(l listed) error {
			entries++
			if l.el.Comment != "" {
				comments++
			}
			return nil
		})
	}
	if want := 3 + 8 + 3 + 4; entries != want || comments != 3 {
		t.Errorf("found %d entries in the lists, %d with comments; want %d and 3", entries, comments, want)
	}
}
