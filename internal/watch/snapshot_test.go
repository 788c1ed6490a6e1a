package watch

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Of every prefix that is banned or has offended there is one record, with its longest ban and its offences.
func TestSnapshot(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		f := newFixture()
		want := make(map[netip.Prefix]state.Record)
		for _, p := range somePrefixes() {
			if rec := f.addRandom(rng, p); rec.Banned || rec.Offences > 0 {
				want[p] = rec
			}
		}
		n := 0
		for got := range f.remember(f.now).records() {
			if got != want[got.Prefix] {
				t.Fatalf("got  %+v\nwant %+v", got, want[got.Prefix])
			}
			n++
		}
		if n != len(want) {
			t.Fatalf("%d records, want %d", n, len(want))
		}
	}
}

// somePrefixes are sources, and neighbours of theirs that have the same first address.
func somePrefixes() (all []netip.Prefix) {
	for i := range 10 {
		a4, a6 := netip.AddrFrom4([4]byte{198, 18, byte(i)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(i)})
		all = append(all, netip.PrefixFrom(a4, 32), netip.PrefixFrom(a4, 24), netip.PrefixFrom(a6, 64), netip.PrefixFrom(a6, 72))
	}
	return append(all, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
}

// addRandom bans a prefix in some sets, or has it offend, or both, and returns what is to be remembered of it.
func (f *fixture) addRandom(rng *rand.Rand, p netip.Prefix) state.Record {
	want := state.Record{Prefix: p}
	isSource := p == f.source(p.Addr())
	for tier := range 4 {
		if tier > 0 && !isSource || rng.IntN(2) == 0 {
			continue
		}
		h := held{timeout: time.Duration(rng.IntN(4)) * time.Hour, byHand: rng.IntN(2) == 0, comment: []string{"", "why"}[rng.IntN(2)]}
		left := min(h.timeout, time.Duration(1+rng.Int64N(int64(time.Hour/2)))+ruleset.MinBanTime)
		h.until = f.now.Mono.Add(left)
		iv := nftset.FromPrefix(p)
		if tier > 0 {
			iv = keyOf(p)
		}
		f.mir.put(ruleset.BanSet(p.Addr(), tier), iv, h)
		forever := want.Banned && want.Timeout == 0
		if !forever && (h.timeout == 0 || left > want.Left) {
			want = state.Record{Prefix: p, Banned: true, Tier: tier, Timeout: h.timeout, Left: left, ByHand: h.byHand, Comment: h.comment}
		}
	}
	if isSource && rng.IntN(2) == 0 {
		ago := time.Duration(rng.Int64N(int64(5 * time.Hour)))
		last := f.now.Mono.Add(-ago)
		want.Proto, want.Port = 17, uint16(rng.IntN(1000))
		v := f.led.Offend(ledger.Offence{Source: p, At: last, Proto: want.Proto, Port: want.Port}, f.now.Mono)
		want.Offences, want.Age = v.Offences, ago
		if !want.Banned {
			want.Left = min(v.Timeout-ago, 0)
		}
	}
	return want
}
