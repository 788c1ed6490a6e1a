package ledger

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sources are what the tests play with: few, so that they meet often.
var sources = []netip.Prefix{
	netip.MustParsePrefix("203.0.113.7/32"),
	netip.MustParsePrefix("203.0.113.8/32"),
	netip.MustParsePrefix("2001:db8:0:1::/64"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("::/0"),
	netip.MustParsePrefix("0.0.0.0/0"),
}

var configs = []Config{
	{Ladder: []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second}, Forget: time.Minute, Max: 4},
	{Ladder: []time.Duration{100 * time.Millisecond}, Forget: time.Second, Max: 2},
	{Ladder: []time.Duration{time.Second, time.Minute}, Forget: 2 * time.Second, Max: 100},
	{Ladder: []time.Duration{8 * time.Hour, 72 * time.Hour, 720 * time.Hour}, Forget: 720 * time.Hour, Max: 5},
}

// program is a list of calls in bytes, run on a ledger and on its model.
type program struct {
	t     *testing.T
	bytes []byte
	now   Instant
	*Ledger
	model *model
}

func run(t *testing.T, code []byte) {
	p := &program{t: t, bytes: code, now: Instant(time.Hour)}
	c := configs[p.next()%len(configs)]
	p.Ledger, p.model = New(c), newModel(c)
	for len(p.bytes) > 0 {
		p.step()
		p.checkLists()
	}
	p.compare("end", p.model.all(p.now), slices.Collect(p.All(p.now)))
}

func (p *program) next() int {
	if len(p.bytes) == 0 {
		return 0
	}
	b := p.bytes[0]
	p.bytes = p.bytes[1:]
	return int(b)
}

func (p *program) source() netip.Prefix { return sources[p.next()%len(sources)] }

// moment returns one around now: mostly a little earlier, sometimes long ago.
func (p *program) moment() Instant {
	b := p.next()
	unit := 100 * time.Millisecond
	if b >= 250 {
		unit = time.Minute
	}
	return p.now.Add(-time.Duration(b) * unit)
}

func (p *program) ban() Ban {
	b := Ban{Source: p.source(), Tier: 1 + p.next()%4, From: p.moment()}
	b.Until = b.From.Add(time.Duration(p.next()) * time.Second)
	return b
}

func (p *program) step() {
	l, m := p.Ledger, p.model
	switch op := p.next(); op % 16 {
	case 0, 1, 2:
		p.now = p.now.Add(time.Duration(p.next()) * 50 * time.Millisecond)
	case 3:
		p.now = p.now.Add(time.Duration(p.next()) * time.Minute)
	case 4, 5, 6, 7:
		o := Offence{Source: p.source(), At: p.moment(), Proto: uint8(1 + op%2), Port: uint16(op)}
		want := m.report(o.Source, o.At, 0, p.now, 1, true, o.Proto, o.Port)
		p.compare("Offend", want, l.Offend(o, p.now))
	case 8, 9, 10:
		b := p.ban()
		want := m.report(b.Source, b.From, b.Until, p.now, b.Tier, false, 0, 0)
		p.compare("Seen", want, l.Seen(b, p.now))
	case 11:
		b := p.ban()
		m.bannedByHand(b, p.now)
		l.BannedByHand(b, p.now)
	case 12:
		source, at := p.source(), p.moment()
		m.unbanned(source, at)
		l.Unbanned(source, at, p.now)
	case 13:
		rec := Record{Source: p.source(), Offences: 1 + p.next()%5, Last: p.moment(), Port: uint16(op)}
		rec.Tier = 1 + p.next()%rec.Offences
		rec.End = rec.Last.Add(time.Duration(p.next()) * time.Second)
		m.put(rec, p.now)
		l.Put(rec, p.now)
	case 14:
		p.compare("Forget", m.forget(p.now), l.Forget(p.now))
	case 15:
		c := configs[p.next()%len(configs)]
		m.reconfigure(c)
		l.Reconfigure(c)
	}
}

func (p *program) compare(what string, want, got any) {
	p.t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		p.t.Fatalf("%s (-model +ledger)\n%s", what, diff)
	}
}

// checkLists fails the test if the records, the index and the two lists do not fit together.
func (p *program) checkLists() {
	p.t.Helper()
	l := p.Ledger
	n := 0
	for repeaters, list := range map[bool]list{false: l.firstTimers, true: l.repeaters} {
		before := uint32(0)
		for id := list.first; id != 0; id = l.slab.at(id).next {
			r := l.slab.at(id)
			if found, _ := l.index.find(r.key); found != id || r.prev != before || (r.offences > 1) != repeaters {
				p.t.Fatalf("record %d is misplaced", id)
			}
			before = id
			n++
		}
		if list.last != before {
			p.t.Fatalf("a list ends at %d and not at %d", before, list.last)
		}
	}
	if n != l.Len() || n != len(p.model.sources) || n > l.config.Max {
		p.t.Fatalf("%d records in lists, %d in the index, %d in the model: at most %d", n, l.Len(), len(p.model.sources), l.config.Max)
	}
}

// seeds are programs for each call and for what happened to be hard.
func seeds() [][]byte {
	all := [][]byte{
		{},
		{0, 4, 0, 0, 0, 40, 4, 0, 0, 0, 100, 4, 0, 0},                                                            // up the ladder
		{0, 4, 0, 0, 8, 0, 1, 1, 60, 4, 0, 0},                                                                    // heard, seen, heard
		{0, 8, 0, 3, 10, 8, 4, 0, 60, 4, 0, 120, 4, 0, 180},                                                      // seen in tier 4, then three older ones
		{0, 11, 0, 0, 3, 20, 4, 0, 3, 8, 0, 0, 3, 20},                                                            // banned by hand and for an offence
		{0, 4, 0, 5, 12, 0, 2, 4, 0, 5, 4, 0, 0},                                                                 // unbanned between
		{0, 4, 0, 0, 4, 1, 0, 4, 2, 0, 4, 3, 0, 4, 4, 0, 4, 5, 0},                                                // full
		{0, 13, 0, 4, 0, 0, 0, 9, 13, 1, 4, 0, 0, 0, 9, 13, 2, 1, 0, 0, 0, 9, 13, 3, 1, 0, 0, 0, 9, 4, 4, 0},     // full of repeaters
		{0, 4, 0, 0, 3, 200, 14, 4, 0, 0},                                                                        // forgotten
		{3, 4, 0, 0, 15, 1, 4, 0, 0, 15, 0},                                                                      // reconfigured
		{0, 4, 0, 250, 4, 0, 251, 4, 0, 252, 4, 0, 253, 4, 0, 254, 4, 0, 255, 4, 0, 250, 4, 0, 251, 11, 0, 0, 9}, // more than it remembers
	}
	// Long programs of every kind, always the same.
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		all = append(all, randomCode(rng, 400))
	}
	return all
}

func randomCode(rng *rand.Rand, n int) []byte {
	code := make([]byte, n)
	for i := range code {
		code[i] = byte(rng.Uint32())
	}
	return code
}

func FuzzLedger(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(run)
}

// The seeds are there, and they make every call.
func TestFuzzSeeds(t *testing.T) {
	calls := make(map[int]int)
	for _, seed := range seeds() {
		run(t, seed)
		for _, b := range seed {
			calls[int(b)%16]++
		}
	}
	if n := len(seeds()); n != 31 || len(calls) != 16 {
		t.Errorf("%d seeds with %d different calls: want 31 and 16", n, len(calls))
	}
}

func TestAgainstModel(t *testing.T) {
	rng := random(t)
	for range 2000 {
		run(t, randomCode(rng, 300))
	}
}

// random returns a source of random numbers whose seed is printed if the test fails.
func random(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
