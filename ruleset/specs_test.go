package ruleset

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// specs are Specs that differ in what becomes of them.
func specs() map[string]Spec {
	out := make(map[string]Spec)
	add := func(name string, change func(*Spec)) {
		s := Default()
		change(&s)
		out[name] = s
	}
	add("default", func(*Spec) {})
	add("maxretry", func(s *Spec) { s.MaxRetry, s.FindTime = 3, 90*time.Second })
	add("highest maxretry", func(s *Spec) { s.MaxRetry, s.FindTime = MaxRetryLimit, MaxFindTime })
	add("UDP traps", func(s *Spec) { s.TrapUDP = []Ports{{161, 161}, {1000, 1003}, {65535, 65535}} })
	add("only UDP traps", func(s *Spec) { s.TrapTCP, s.TrapUDP = nil, []Ports{{161, 161}} })
	add("prefix6 128", func(s *Spec) { s.Prefix6 = 128 })
	add("prefix6 1", func(s *Spec) { s.Prefix6 = 1 })
	add("prefix6 61 and maxretry", func(s *Spec) { s.Prefix6, s.MaxRetry = 61, 2 })
	add("empty whitelist", func(s *Spec) { s.Whitelist = nil })
	add("long whitelist", func(s *Spec) {
		for i := range 500 { // what goes into one message of nft's, as it has no more room without privilege
			s.Whitelist = append(s.Whitelist,
				netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 7), byte(i << 1)}), 32),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 7), byte(i << 1)}), 48))
		}
	})
	add("whitelist with overlaps and neighbours", func(s *Spec) {
		for _, p := range []string{
			"198.51.100.0/24", "198.51.100.0/25", "198.51.101.0/24", "198.51.100.7/32", "255.255.255.255/32", "0.0.0.0/8",
			"2001:db8::/33", "2001:db8:8000::/33", "2001:db8::1/128", "ffff::/16", "::/16",
		} {
			s.Whitelist = append(s.Whitelist, netip.MustParsePrefix(p))
		}
	})
	add("everything whitelisted", func(s *Spec) {
		s.Whitelist = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	})
	add("one step", func(s *Spec) { s.BanTime = []time.Duration{1234567 * time.Millisecond} })
	add("8 steps", func(s *Spec) {
		s.BanTime = []time.Duration{
			MinBanTime, time.Second, time.Minute, time.Hour, 24 * time.Hour, 25*time.Hour + 61*time.Second + 5*time.Millisecond, 365 * 24 * time.Hour, MaxBanTime,
		}
	})
	add("no traps", func(s *Spec) { s.TrapTCP, s.TrapUDP = nil, nil })
	add("no scans", func(s *Spec) { s.Scan.Ports = 0 })
	add("strict", func(s *Spec) { s.Scan.Ports = 1 })
	add("highest number of ports", func(s *Spec) { s.Scan.Ports, s.Scan.FindTime = MaxRetryLimit, MaxFindTime })
	add("nothing ignored", func(s *Spec) { s.Scan.Ignore = nil })
	add("all ignored", func(s *Spec) { s.Scan.Ignore = []Ports{{1, 65535}} })
	add("nothing at all", func(s *Spec) { s.TrapTCP, s.TrapUDP, s.Scan.Ports = nil, nil, 0 })
	add("no grace", func(s *Spec) { s.Grace = 0 })
	add("longest grace", func(s *Spec) { s.Grace = MaxGrace })
	add("subnets", func(s *Spec) { s.Subnet4, s.Subnet6 = 3, 1 })
	add("no subnets", func(s *Spec) { s.Subnet4, s.Subnet6 = 0, 0 })
	add("prefix6 48 and subnets", func(s *Spec) { s.Prefix6, s.Subnet4 = 48, MaxRetryLimit })
	add("single6", func(s *Spec) { s.Single6 = []netip.Prefix{netip.MustParsePrefix("2001:db8:5::/48")} })
	add("own networks", func(s *Spec) {
		s.Prefix6 = 56 // the table has a digest of its own only if more differs
		s.Own6 = []netip.Prefix{netip.MustParsePrefix("2001:db8:2::/64"), netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:1::/96")}
	})
	add("interfaces", func(s *Spec) { s.Interfaces = []string{"wg0", "br-*", "abcdefghijklmno", "a*", "tail$cale`0"} })
	add("knock", func(s *Spec) { s.Knock.TCP = []uint16{7001, 9003, 8002} })
	add("shortest knock", func(s *Spec) { s.Knock = Knock{[]uint16{1, 65535}, MinBanTime, MinBanTime} })
	add("longest knock", func(s *Spec) {
		s.Knock = Knock{[]uint16{8, 1, 7, 2, 6, 3, 5, 4}, MaxKnockWithin, MaxBanTime}
	})
	add("knock, interfaces and observe", func(s *Spec) {
		s.Knock.TCP, s.Interfaces, s.Observe, s.Scan.Ports = []uint16{23, 80, 22}, []string{"wg0"}, true, 1
	})
	add("observe", func(s *Spec) { s.Observe, s.TrapUDP, s.MaxRetry, s.Subnet4 = true, []Ports{{161, 161}}, 2, 3 })
	add("observe strictly", func(s *Spec) { s.Observe, s.Scan.Ports, s.Prefix6 = true, 1, 128 })
	add("observe nothing", func(s *Spec) { s.Observe, s.TrapTCP, s.Scan.Ports = true, nil, 0 })
	add("fleet", func(s *Spec) { s.Fleet = FleetSize })
	add("fleet, single addresses and subnets", func(s *Spec) { s.Fleet, s.Prefix6, s.Subnet4, s.TrapUDP = 1, 128, 3, []Ports{{161, 161}} })
	add("fleet, observe and shorter prefixes", func(s *Spec) { s.Fleet, s.Prefix6, s.Observe, s.Knock.TCP = MaxSize, 56, true, []uint16{1, 65535} })
	add("no route back, IPv4", func(s *Spec) { s.NoReversePath4 = true })
	add("no route back, IPv6", func(s *Spec) { s.NoReversePath6 = true })
	add("no route back", func(s *Spec) { s.NoReversePath4, s.NoReversePath6 = true, true })
	add("local ports", func(s *Spec) { s.LocalPorts = Ports{1024, 65535} })
	add("short forget", func(s *Spec) { s.Forget = MinBanTime })
	add("all ports", func(s *Spec) { s.TrapTCP, s.TrapUDP = []Ports{{1, 65535}}, []Ports{{1, 65535}} })
	add("as many ports as go into a bitmap", func(s *Spec) { s.TrapTCP = []Ports{{1, maxSinglePorts}} })
	add("adjacent ports", func(s *Spec) { s.TrapTCP = []Ports{{24, 25}, {23, 23}, {26, 26}, {65535, 65535}, {1, 1}} })
	add("smallest size", func(s *Spec) { s.Size = 1 })
	add("largest size", func(s *Spec) { s.Size = MaxSize })
	add("log", func(s *Spec) { s.LogGroup, s.LogThreshold = 65535, 1 })
	add("log group 0", func(s *Spec) { s.LogGroup, s.LogThreshold = 0, 65535 })
	return out
}

// TestEveryValidSpecCompiles has Specs with numbers and times of all kinds: a
// rule that its parser does not understand is a panic.
func TestEveryValidSpecCompiles(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	between := func(low, high time.Duration) time.Duration {
		return max(low, time.Duration(random.Int64N(int64(high)>>random.IntN(30)))/time.Millisecond*time.Millisecond)
	}
	for range 3000 {
		s := Default()
		s.MaxRetry, s.FindTime = 1+random.IntN(MaxRetryLimit), between(MinBanTime, MaxFindTime)
		s.Scan.Ports, s.Scan.FindTime = random.IntN(MaxRetryLimit+1), between(MinBanTime, MaxFindTime)
		s.BanTime = []time.Duration{between(MinBanTime, MaxBanTime)}
		s.Forget, s.Grace = between(MinBanTime, MaxBanTime), between(MinBanTime, MaxGrace)
		s.Prefix6, s.Size = 1+random.IntN(128), 1+random.Uint32N(MaxSize)
		s.Subnet4, s.Subnet6 = random.IntN(MaxRetryLimit+1), random.IntN(MaxRetryLimit+1)
		s.LogGroup, s.LogThreshold = uint16(random.IntN(1<<16)), uint16(1+random.IntN(1<<16-1))
		s.LocalPorts = Ports{uint16(1 + random.IntN(1000)), uint16(1000 + random.IntN(60000))}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		compile(s, askedNets{random.IntN(2) == 0, random.IntN(2) == 0})
	}
}
