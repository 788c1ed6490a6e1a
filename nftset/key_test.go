package nftset

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"
	"unsafe"
)

// addr returns the key of an address.
func addr(s string) Key { return AddrKey(netip.MustParseAddr(s)) }

// keyTypes are the types that there are intervals of, allTypes all that this
// package knows, each in ascending order.
var (
	keyTypes = []KeyType{IPv4Addr, IPv6Addr, InetService}
	allTypes = []KeyType{IPv4Addr, IPv6Addr, InetProto, InetService, IPv4AddrPort, IPv6AddrPort}
)

// pairOf returns the key of an address and a port.
func pairOf(s string) Key { return AddrPortKey(netip.MustParseAddrPort(s)) }

// randomKey returns a key that lies near the ends of the key space, or near few
// other places, more often than chance has it.
func randomKey(r *rand.Rand, t KeyType) Key {
	var b [24]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	n := t.Len()
	for i := range n - 1 {
		if r.IntN(2) == 0 {
			b[i] = [2]byte{0, 0xff}[r.IntN(2)]
		}
	}
	k, _ := ParseKey(t, b[:n])
	return k
}

func TestKeyTypes(t *testing.T) {
	for _, tt := range []struct {
		typ  KeyType
		name string
		size int
		max  string
	}{
		{IPv4Addr, "ipv4_addr", 4, "255.255.255.255"},
		{IPv6Addr, "ipv6_addr", 16, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{InetProto, "inet_proto", 1, "255"},
		{InetService, "inet_service", 2, "65535"},
		{IPv4AddrPort, "ipv4_addr . inet_service", 8, "255.255.255.255 . 65535"},
		{IPv6AddrPort, "ipv6_addr . inet_service", 20, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff . 65535"},
	} {
		if got := tt.typ.String(); got != tt.name {
			t.Errorf("name of %d: got %s, want %s", tt.typ, got, tt.name)
		}
		if got := tt.typ.Len(); got != tt.size {
			t.Errorf("length of %v: got %d, want %d", tt.typ, got, tt.size)
		}
		if got := tt.typ.Max(); got.String() != tt.max || got.Type() != tt.typ {
			t.Errorf("highest %v: got %v of %v, want %s", tt.typ, got, got.Type(), tt.max)
		}
	}
	if got := KeyType(19); got.Len() != 0 || got.String() != "type 19" {
		t.Errorf("unknown type: got length %d and name %q", got.Len(), got)
	}
}

func TestAddrKey(t *testing.T) {
	for _, tt := range []struct {
		in   string
		typ  KeyType
		want string
	}{
		{"0.0.0.0", IPv4Addr, "0.0.0.0"},
		{"192.0.2.1", IPv4Addr, "192.0.2.1"},
		{"255.255.255.255", IPv4Addr, "255.255.255.255"},
		{"::ffff:192.0.2.1", IPv4Addr, "192.0.2.1"}, // mapped
		{"::", IPv6Addr, "::"},
		{"::1", IPv6Addr, "::1"},
		{"2001:db8::1", IPv6Addr, "2001:db8::1"},
		{"fe80::1%eth0", IPv6Addr, "fe80::1"},
		{"::192.0.2.1", IPv6Addr, "::c000:201"}, // not mapped: 12 zero bytes
	} {
		k := addr(tt.in)
		if k.Type() != tt.typ || k.Addr() != netip.MustParseAddr(tt.want) || k.String() != tt.want {
			t.Errorf("AddrKey(%s): got %v (%v) of %v, want %s of %v", tt.in, k, k.Addr(), k.Type(), tt.want, tt.typ)
		}
		if k.Port() != 0 {
			t.Errorf("port of %v: got %d", k, k.Port())
		}
	}
}

func TestPortKey(t *testing.T) {
	for port := range 1 << 16 {
		k := PortKey(uint16(port))
		if k.Port() != uint16(port) || k.Type() != InetService || k.Addr().IsValid() {
			t.Fatalf("PortKey(%d): got %d of %v, address %v", port, k.Port(), k.Type(), k.Addr())
		}
	}
	if got := PortKey(443).String(); got != "443" {
		t.Errorf("got %q, want 443", got)
	}
}

func TestAddrPortKey(t *testing.T) {
	for _, tt := range []struct {
		in   string
		typ  KeyType
		addr string
		port uint16
		want string
	}{
		{"0.0.0.0:0", IPv4AddrPort, "0.0.0.0", 0, "0.0.0.0 . 0"},
		{"192.0.2.1:23", IPv4AddrPort, "192.0.2.1", 23, "192.0.2.1 . 23"},
		{"255.255.255.255:65535", IPv4AddrPort, "255.255.255.255", 65535, "255.255.255.255 . 65535"},
		{"[::ffff:192.0.2.1]:23", IPv4AddrPort, "192.0.2.1", 23, "192.0.2.1 . 23"},
		{"[2001:db8::1]:443", IPv6AddrPort, "2001:db8::1", 443, "2001:db8::1 . 443"},
		{"[fe80::1%eth0]:443", IPv6AddrPort, "fe80::1", 443, "fe80::1 . 443"},
	} {
		k := pairOf(tt.in)
		if k.Type() != tt.typ || k.Addr() != netip.MustParseAddr(tt.addr) || k.Port() != tt.port || k.String() != tt.want {
			t.Errorf("%s: got %v (%v, port %d) of %v, want %s of %v", tt.in, k, k.Addr(), k.Port(), k.Type(), tt.want, tt.typ)
		}
		if _, ok := Single(k).Interval.Prefix(); ok || Single(k).Interval.Prefixes() != nil {
			t.Errorf("%v passes for a prefix", k)
		}
	}
	if a, b := pairOf("192.0.2.1:23"), pairOf("192.0.2.1:24"); a == b || a == addr("192.0.2.1") {
		t.Error("keys that differ in the port or the type are equal")
	}
	if size := unsafe.Sizeof(Key{}); size > 24 {
		t.Errorf("a key takes %d bytes", size)
	}
}

func TestProtoKey(t *testing.T) {
	for proto := range 1 << 8 {
		k := ProtoKey(uint8(proto))
		want := map[int]string{6: "tcp", 17: "udp"}[proto]
		if want == "" {
			want = strconv.Itoa(proto)
		}
		if k.Type() != InetProto || k.Addr().IsValid() || k.Port() != 0 || k.String() != want {
			t.Errorf("protocol %d: got %v of %v", proto, k, k.Type())
		}
	}
	if PortKey(6).String() != "6" {
		t.Error("a port passes for a protocol")
	}
}

// TestKeyOrder compares with package netip, which orders addresses of one
// length as their bytes.
func TestKeyOrder(t *testing.T) {
	r := random(t)
	for range 20000 {
		typ := keyTypes[r.IntN(2)]
		a, b := randomKey(r, typ), randomKey(r, typ)
		if got, want := a.Compare(b), a.Addr().Compare(b.Addr()); got != want {
			t.Fatalf("%v.Compare(%v): got %d, want %d", a, b, got, want)
		}
		if a == b != (a.Compare(b) == 0) {
			t.Fatalf("%v and %v: == and Compare disagree", a, b)
		}
	}
	if PortKey(2).Compare(PortKey(10)) >= 0 || PortKey(10).Compare(PortKey(2)) <= 0 {
		t.Error("ports are not in numerical order")
	}
	// Addresses with ports go by the address, then by the port.
	ordered := []Key{
		pairOf("0.0.0.0:0"), pairOf("0.0.0.0:65535"), pairOf("0.0.0.1:0"), pairOf("10.0.0.1:2"), pairOf("10.0.0.1:10"),
		pairOf("[::]:0"), pairOf("[::]:1"), pairOf("[::1]:0"), pairOf("[1::]:0"), pairOf("[1::]:9"),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := a.Compare(b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%v against %v: got %d", a, b, got)
			}
		}
	}
	for i, a := range allTypes {
		for j, b := range allTypes {
			if got := a.Max().Compare(b.Max()); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%v against %v: got %d", a, b, got)
			}
		}
	}
}

// TestNext compares with netip.Addr.Next, and checks that prev goes back.
func TestNext(t *testing.T) {
	r := random(t)
	for range 20000 {
		k := randomKey(r, keyTypes[r.IntN(2)])
		next, ok := k.Next()
		want := k.Addr().Next()
		if ok != want.IsValid() || ok && (next.Addr() != want || next.Type() != k.Type()) {
			t.Fatalf("%v.Next(): got %v %v, want %v", k, next, ok, want)
		}
		if ok && next.prev() != k {
			t.Fatalf("%v.prev(): got %v, want %v", next, next.prev(), k)
		}
	}
	for port := range 1<<16 - 1 {
		k := PortKey(uint16(port))
		if next, ok := k.Next(); !ok || next != PortKey(uint16(port+1)) || next.prev() != k {
			t.Fatalf("%v.Next(): got %v %v", k, next, ok)
		}
	}
	for _, tt := range []struct{ k, want Key }{
		{ProtoKey(6), ProtoKey(7)},
		{pairOf("192.0.2.1:23"), pairOf("192.0.2.1:24")},
		{pairOf("192.0.2.1:65535"), pairOf("192.0.2.2:0")},
		{pairOf("[2001:db8::ffff:ffff:ffff:ffff]:65535"), pairOf("[2001:db8:0:1::]:0")},
	} {
		if next, ok := tt.k.Next(); !ok || next != tt.want || next.prev() != tt.k {
			t.Errorf("%v.Next(): got %v %v, want %v; back: %v", tt.k, next, ok, tt.want, next.prev())
		}
	}
	for _, typ := range allTypes {
		k := typ.Max()
		if next, ok := k.Next(); ok {
			t.Errorf("%v.Next(): got %v, want none", k, next)
		}
	}
	// The carry from the lower half of an address to the upper.
	if next, _ := addr("2001:db8::ffff:ffff:ffff:ffff").Next(); next != addr("2001:db8:0:1::") {
		t.Errorf("carry: got %v", next)
	}
}

// TestKeyBytes compares with how package netip writes addresses, and ports with
// how TCP does.
func TestKeyBytes(t *testing.T) {
	r := random(t)
	check := func(k Key, want []byte) {
		t.Helper()
		got := k.append([]byte("x"))
		if !bytes.Equal(got, append([]byte("x"), want...)) {
			t.Errorf("%v: got bytes %x, want %x after the first", k, got, want)
		}
		if back, ok := ParseKey(k.Type(), want); !ok || back != k {
			t.Errorf("parse %x as %v: got %v %v, want %v", want, k.Type(), back, ok, k)
		}
		for _, wrong := range [][]byte{want[1:], append(want[:len(want):len(want)], 0), nil} {
			if back, ok := ParseKey(k.Type(), wrong); ok {
				t.Errorf("parse %x as %v: got %v, want nothing", wrong, k.Type(), back)
			}
		}
	}
	for range 2000 {
		k := randomKey(r, IPv4Addr)
		b4 := k.Addr().As4()
		check(k, b4[:])
		k = randomKey(r, IPv6Addr)
		b16 := k.Addr().As16()
		check(k, b16[:])
	}
	check(PortKey(0x0102), []byte{1, 2})
	check(PortKey(443), []byte{0x01, 0xbb})
	check(ProtoKey(17), []byte{17})
	check(pairOf("192.0.2.1:443"), []byte{192, 0, 2, 1, 0x01, 0xbb, 0, 0})
	check(pairOf("[2001:db8::7]:443"), []byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x01, 0xbb, 0, 0})
	for _, b := range [][]byte{nil, {1, 2}, {1, 2, 3, 4}} {
		if k, ok := ParseKey(1, b); ok {
			t.Errorf("parse %x as a type that is unknown: got %v", b, k)
		}
	}
}
