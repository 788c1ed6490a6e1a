package nftset

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// TestPacketPathAddsPairs has rules fill sets of addresses with ports, and look
// up in sets that this package filled: the kernel and it must mean the same
// bytes.
func TestPacketPathAddsPairs(t *testing.T) {
	l := newLab(t)
	outside := netnstest.NewHost(t, "outside")
	link := netnstest.Connect(t, outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	probed4 := l.addSet(&Set{Name: "probed4", Type: IPv4AddrPort, Flags: FlagDynamic | FlagTimeout, Timeout: time.Hour, Size: 1000})
	probed6 := l.addSet(&Set{Name: "probed6", Type: IPv6AddrPort, Flags: FlagDynamic | FlagTimeout, Timeout: time.Hour, Size: 1000})
	served4 := l.addSet(&Set{Name: "served4", Type: IPv4AddrPort, Flags: FlagDynamic | FlagTimeout, Timeout: time.Hour, Size: 1000})
	starting := l.addSet(&Set{Name: "starting", Type: InetProto, Flags: FlagTimeout})
	l.nft(`
		add chain inet lab input { type filter hook input priority 0; }
		add rule inet lab input meta l4proto @starting accept
		add rule inet lab input ip daddr . udp dport @served4 accept
		add rule inet lab input meta l4proto udp add @probed4 { ip saddr . udp dport }
		add rule inet lab input meta l4proto udp add @probed6 { ip6 saddr . udp dport }`)

	src4, src6 := netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")
	send := func(ports ...uint16) {
		for _, port := range ports {
			outside.Send(netnstest.Datagram(src4, netip.AddrPortFrom(link.B.IPv4, port), ""))
			outside.Send(netnstest.Datagram(src6, netip.AddrPortFrom(link.B.IPv6, port), ""))
		}
	}
	if err := l.AddSeq(starting, each(Element{Interval: iv("udp"), Timeout: time.Hour})); err != nil {
		t.Fatal(err)
	}
	send(9)
	if err := l.DeleteSeq(starting, singles(ProtoKey(unix.IPPROTO_UDP))); err != nil {
		t.Fatal(err)
	}
	if err := l.AddSeq(served4, singles(AddrPortKey(netip.AddrPortFrom(link.B.IPv4, 53)))); err != nil {
		t.Fatal(err)
	}
	send(53, 65535, 123, 123)

	for _, tt := range []struct {
		set  *Set
		want []Interval
	}{
		{probed4, ivs("192.0.2.77 . 123", "192.0.2.77 . 65535")},
		{probed6, ivs("2001:db8::77 . 53", "2001:db8::77 . 123", "2001:db8::77 . 65535")},
	} {
		if got := l.intervals(tt.set); !slices.Equal(got, tt.want) {
			t.Errorf("%v holds %v, want %v", tt.set, got, tt.want)
		}
		for _, x := range tt.want {
			if got, err := l.Get(tt.set, x.From); err != nil || got.Interval != x || got.Remaining == 0 {
				t.Errorf("Get(%v): %s, %v", x, show(got), err)
			}
		}
		if err := l.DeleteSeq(tt.set, singles(tt.want[0].From)); err != nil {
			t.Error(err)
		}
		if got := l.intervals(tt.set); !slices.Equal(got, tt.want[1:]) {
			t.Errorf("%v holds %v, want %v", tt.set, got, tt.want[1:])
		}
	}
}

// TestIntervalsOfPairs has sets that this package does not read: nothing may be
// taken for something else, nor for nothing.
func TestIntervalsOfPairs(t *testing.T) {
	l := newLab(t)
	l.nft(`
		add set inet lab s { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 20-30 }; }
		add set inet lab p { type inet_proto; flags interval; elements = { 6-17 }; }`)
	for _, s := range []*Set{
		{Table: l.table, Name: "s", Type: IPv4AddrPort, Flags: FlagInterval},
		{Table: l.table, Name: "p", Type: InetProto, Flags: FlagInterval},
	} {
		want := "intervals of " + s.Type.String() + " are not supported"
		var add Tx
		add.AddSet(s)
		_, read := firstError(l.Conn, s)
		_, get := l.Get(s, s.Type.Max())
		for what, err := range map[string]error{
			"add set " + s.String():  l.Commit(&add),
			"read set " + s.String(): read,
			"get element " + s.Type.Max().String() + " of " + s.String(): get,
			"add element " + s.Type.Max().String() + " of " + s.String(): l.AddSeq(s, singles(s.Type.Max())),
		} {
			if err == nil || err.Error() != what+": "+want {
				t.Errorf("got %v, want %s: %s", err, what, want)
			}
		}
	}
	// Described as a set of single keys, it is found out.
	wrong := &Set{Table: l.table, Name: "s", Type: IPv4AddrPort}
	if n, err := firstError(l.Conn, wrong); n != 0 || !errors.Is(err, errIntervals) {
		t.Errorf("read %d elements, %v", n, err)
	}
	if got, err := l.Get(wrong, pairOf("192.0.2.1:22")); !errors.Is(err, errIntervals) {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestPairErrors has the kernel point at one element among many.
func TestPairErrors(t *testing.T) {
	l := newLab(t)
	const n = 5000
	for _, typ := range []KeyType{IPv4AddrPort, IPv6AddrPort} {
		var keys []Key
		for i := range uint64(n) {
			keys = append(keys, Key{lo: i / 3, port: uint16(i), typ: typ})
		}
		s := l.addSet(&Set{Name: typ.String(), Type: typ, Size: n - 1})
		full := Single(keys[n-1]).Interval
		checkOpError(t, l.AddSeq(s, singles(keys...)), "add element", s.String(), &full, unix.ENFILE)
		if err := l.AddSeq(s, singles(keys[1:]...)); err != nil {
			t.Fatal(err)
		}
		for _, at := range positions(n) {
			list := slices.Concat(keys[1:at+1], keys[:1], keys[at+1:])
			absent := Single(keys[0]).Interval
			var tx Tx
			tx.DeleteSeq(s, singles(list...))
			if tx.Len() < 2 {
				t.Fatalf("%d messages", tx.Len())
			}
			checkOpError(t, l.Commit(&tx), "delete element", s.String(), &absent, unix.ENOENT)
		}
		if got := len(l.read(s)); got != n-1 {
			t.Errorf("%v holds %d elements, want %d", s, got, n-1)
		}
	}
	s := l.set("s", IPv4AddrPort, 0)
	want := "add element 192.0.2.1 of inet lab s: a ipv4_addr does not fit a set of ipv4_addr . inet_service"
	if err := l.AddSeq(s, singles(addr("192.0.2.1"))); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestMonitorHearsOfPairs has nft edit sets of keys of two parts, and of
// protocols.
func TestMonitorHearsOfPairs(t *testing.T) {
	l := newLab(t)
	m := l.listen(MonitorConfig{Sets: []Set{
		l.describe("served4", IPv4AddrPort), l.describe("served6", IPv6AddrPort), l.describe("starting", InetProto),
	}})
	l.runNft(`
		add set inet lab served4 { type ipv4_addr . inet_service; flags timeout; }
		add set inet lab served6 { type ipv6_addr . inet_service; flags timeout; }
		add set inet lab starting { type inet_proto; flags timeout; }
		add element inet lab served4 { 192.0.2.1 . 23 timeout 1h }
		add element inet lab served6 { 2001:db8::1 . 443 comment "web" }
		add element inet lab starting { tcp timeout 1h, udp }`)
	events, _ := hear(t, m)
	want := []string{
		"element added served4 192.0.2.1 . 23 timeout 1h0m0s left 1h",
		`element added served6 2001:db8::1 . 443 "web"`,
		"element added starting tcp timeout 1h0m0s left 1h",
		"element added starting udp",
		"set added served4",
		"set added served6",
		"set added starting",
	}
	if got := briefly(events); !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	l.runNft("delete element inet lab served6 { 2001:db8::1 . 443 }")
	events, _ = hear(t, m)
	if got, want := briefly(events), []string{`element deleted served6 2001:db8::1 . 443 "web"`}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}
