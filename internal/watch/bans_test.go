package watch

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/nftset"
)

// intervals are what the test bans: IPv4 addresses, IPv6 networks by their first address, one address in both guises, and ranges.
func intervals() []nftset.Interval {
	ivs := []nftset.Interval{
		nftset.FromPrefix(netip.MustParsePrefix("198.18.0.0/24")),
		nftset.FromPrefix(netip.MustParsePrefix("2001:db8::/32")),
	}
	// The last of ::ffff:0:0/96 is 255.255.255.255 as an IPv6 address.
	mapped := nftset.FromPrefix(netip.MustParsePrefix("::fffe:ffff:0/95"))
	ivs = append(ivs, nftset.Single(mapped.To), keyOf(netip.MustParsePrefix("255.255.255.255/32")))
	for i := range 20 {
		ivs = append(ivs, keyOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 32)))
		ivs = append(ivs, keyOf(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(i)}), 64)))
	}
	return ivs
}

// Whatever is put in and dropped, the mirror holds what a map holds, and keeps no terms that no ban has.
func TestMirrorAgainstMap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	ivs, sets := intervals(), []string{"ban4", "ban6_2"}
	m, want := make(mirror), make(map[place]held)
	for range 20_000 {
		p := place{sets[rng.IntN(len(sets))], ivs[rng.IntN(len(ivs))]}
		switch rng.IntN(8) {
		case 0, 1, 2, 3:
			h := held{until: ledger.Instant(rng.IntN(1000)), round: rng.Uint32(), byHand: rng.IntN(4) == 0}
			h.timeout = time.Duration(rng.IntN(3)) * time.Hour
			if rng.IntN(4) == 0 {
				h.comment = string(rune('a' + rng.IntN(10)))
			}
			m.put(p.set, p.key, h)
			want[p] = h
		case 4, 5, 6:
			m.drop(p.set, p.key)
			delete(want, p)
		case 7:
			now := ledger.Instant(rng.IntN(100))
			m.sweep(now)
			maps.DeleteFunc(want, func(_ place, h held) bool { return !h.lasts(now) })
		}
		if h, ok := m.get(p.set, p.key); ok != (want[p] != held{}) || h != want[p] {
			t.Fatalf("%v: %+v, want %+v", p, h, want[p])
		}
		compareMirror(t, m, want)
	}
}

func compareMirror(t *testing.T, m mirror, want map[place]held) {
	t.Helper()
	n := 0
	for set, b := range m {
		inUse := make(map[terms]bool)
		for iv, h := range b.all() {
			if w, ok := want[place{set, iv}]; !ok || w != h {
				t.Fatalf("%s %v: %+v, want %+v", set, iv, h, w)
			}
			if iv.IsSingle() {
				inUse[terms{h.timeout, h.comment, h.byHand}] = true
			}
			n++
		}
		if len(b.terms.numbers) != len(inUse) || len(b.terms.used)-len(b.terms.free) != len(inUse) {
			t.Fatalf("%s: %d of %d terms are kept for bans with %d", set, len(b.terms.numbers), len(b.terms.used), len(inUse))
		}
	}
	if total := m["ban4"].len() + m["ban6_2"].len(); n != len(want) || total != n {
		t.Fatalf("%d bans, counted %d, want %d", n, total, len(want))
	}
}

// Bans may be put anew while they are gone through, as restore does, and each is seen once.
func TestMirrorPutWhileRead(t *testing.T) {
	m := make(mirror)
	ivs := intervals()
	for _, iv := range ivs {
		m.put("ban4", iv, held{timeout: time.Hour, until: 1e18})
	}
	var seen []nftset.Interval
	for iv, h := range m.live("ban4", 0) {
		seen = append(seen, iv)
		h.round, h.comment = 7, "again"
		m.put("ban4", iv, h)
	}
	slices.SortFunc(seen, nftset.Interval.Compare)
	slices.SortFunc(ivs, nftset.Interval.Compare)
	if !slices.Equal(seen, ivs) {
		t.Errorf("seen %v, want %v", seen, ivs)
	}
}

// What there may be many of is small.
func TestMirrorMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	const n = 1 << 16
	for name, source := range map[string]func(i int) netip.Addr{
		"IPv4": func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) },
		"IPv6": func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 5: byte(i >> 16), 6: byte(i >> 8), 7: byte(i)})
		},
	} {
		before := heap()
		m := make(mirror)
		for i := range n {
			m.put("ban", nftset.Single(nftset.AddrKey(source(i))), held{timeout: time.Hour, until: 1, comment: "fail2ban: " + name})
		}
		each := (heap() - before) / n
		t.Logf("%s: %d bytes for each ban", name, each)
		if each > 110 {
			t.Errorf("%s: %d bytes for each ban", name, each)
		}
		runtime.KeepAlive(m)
	}
}
