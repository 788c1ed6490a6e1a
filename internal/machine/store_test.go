package machine

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// TestMachinesBesideEachOther has machines of different tables on one host, whose
// sets share their memory, do what each does on a host of its own.
func TestMachinesBesideEachOther(t *testing.T) {
	t.Parallel()
	var together, alone []*Machine
	var hosts []*Host
	dst4, dst6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	for i := range 6 {
		spec := ruleset.Default()
		spec.Scan.Ports, spec.Size, spec.Scan.FindTime = i, uint32(40+20*i), 20*time.Minute
		spec.BanTime = []time.Duration{time.Minute, time.Duration(i+2) * time.Minute, time.Hour}
		spec.Forget = time.Duration(1+i%2) * time.Hour
		spec.Subnet4, spec.MaxRetry = i%3*2, 1+i%2
		for range 2 {
			m, err := New(ruleset.Compile(spec))
			if err != nil {
				t.Fatal(err)
			}
			together = append(together, m)
		}
		alone, together = append(alone, together[len(together)-1]), together[:len(together)-1]
		hosts = append(hosts, NewHost(alone[i]))
	}
	hosts = append(hosts, NewHost(together...))
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	now := time.Now().UnixNano()
	for range 30_000 {
		n, port := random.IntN(300), uint16(random.IntN(3000))
		src, dst := netip.AddrFrom4([4]byte{198, 18, byte(n), byte(n >> 2)}), dst4
		if n%2 == 0 {
			src, dst = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(n >> 3), 7: byte(n), 15: 1}), dst6
		}
		b, err := netnstest.SYN(src, netip.AddrPortFrom(dst, port)).AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		now += random.Int64N(int64(2 * time.Second))
		for _, h := range hosts {
			h.AddAddr(dst)
			if p := (Packet{Now: now}); p.Parse(b) {
				h.Receive(&p)
			}
		}
	}
	for i, m := range together {
		for _, c := range ruleset.Counters() {
			if got, want := m.Counter(c), alone[i].Counter(c); got != want {
				t.Errorf("machine %d: counter %s is %v beside others, %v alone", i, c, got, want)
			}
		}
		for s := range m.Sets() {
			elements := func(m *Machine) map[string]time.Duration {
				out := make(map[string]time.Duration)
				for el := range m.sets[s.Name].Elements(now) {
					out[el.Interval.String()] = el.Remaining
				}
				return out
			}
			if got, want := elements(m), elements(alone[i]); !maps.Equal(got, want) {
				t.Errorf("machine %d: set %s has %d elements beside others, %d alone", i, s.Name, len(got), len(want))
			}
			if got, want := s.Peak(), alone[i].sets[s.Name].Peak(); got != want {
				t.Errorf("machine %d: set %s had %d elements beside others, %d alone", i, s.Name, got, want)
			}
		}
	}
	if n := together[5].Counter("banned").Packets; n < 100 {
		t.Errorf("%d bans: want more to compare", n)
	}
}
