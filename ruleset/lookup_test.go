package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// bannedBy returns what Lookup says of an address, and its bans in short: their
// sets, and what is banned.
func (l *fixture) bannedBy(a string) (sets []string, st Standing) {
	l.T.Helper()
	st = l.lookup(addr(a))
	for _, b := range st.Bans {
		sets = append(sets, b.Set+" "+b.Interval.String())
		if !b.Contains(nftset.AddrKey(addr(a))) {
			l.T.Errorf("Lookup(%s) gives the ban of %v", a, b.Interval)
		}
	}
	return sets, st
}

// TestLookupSaysWhatThePacketPathDoes asks about addresses, and sends packets
// from them.
func TestLookupSaysWhatThePacketPathDoes(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Whitelist = []netip.Prefix{prefix("203.0.113.64/26"), prefix("2001:db8:7:7::9/128")}
	l := newTrap(t, spec)
	hour := func(p string, step int, cause Cause) Record {
		return Record{Source: prefix(p), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Step: step, StepRemaining: 2 * time.Hour, Cause: cause}
	}
	// The whitelist does not hinder what it covers in part.
	l.ban(Forever, "203.0.113.0/24", "2001:db8:2::/48")
	l.ban(5*time.Minute, "198.51.100.0/30", "2001:db8:1:1::/65")
	l.put(
		hour("198.51.100.1/32", 0, CauseUnknown), hour("198.51.100.2/32", 2, CauseTrap), hour("198.51.100.5/32", 1, CauseScan),
		hour("2001:db8:1:1::/64", 3, CauseTrap), hour("2001:db8:3:3::3/128", 1, CauseScan), hour("2001:db8:7:7::/64", 0, CauseUnknown),
		hour("2001:db8:4::/48", 0, CauseSubnet), hour("2001:db8:4:4::/64", 1, CauseTrap),
		Record{Source: prefix("198.51.100.9/32"), Step: 2, StepRemaining: time.Hour, Cause: CauseScan},
	)
	l.NFT("add element inet portmon ban4 { 203.0.113.77, 198.51.100.7 timeout 1h comment \"offence: sshd\" }")
	for _, tt := range []struct {
		addr        string
		sets        []string
		causes      []Cause
		step        int
		source      string
		whitelisted string
	}{
		{"198.51.100.1", []string{"ban4 198.51.100.1", "net4 198.51.100.0/30"}, []Cause{CauseOther, CauseHand}, 0, "198.51.100.1/32", ""},
		{"198.51.100.2", []string{"ban4 198.51.100.2", "net4 198.51.100.0/30"}, []Cause{CauseTrap, CauseHand}, 2, "198.51.100.2/32", ""},
		{"198.51.100.3", []string{"net4 198.51.100.0/30"}, []Cause{CauseHand}, 0, "198.51.100.3/32", ""},
		{"198.51.100.4", nil, nil, 0, "198.51.100.4/32", ""},
		{"198.51.100.5", []string{"ban4 198.51.100.5"}, []Cause{CauseScan}, 1, "198.51.100.5/32", ""},
		{"198.51.100.7", []string{"ban4 198.51.100.7"}, []Cause{CauseOther}, 0, "198.51.100.7/32", ""},
		{"198.51.100.9", nil, nil, 2, "198.51.100.9/32", ""},
		{"203.0.113.0", []string{"net4 203.0.113.0/24"}, []Cause{CauseHand}, 0, "203.0.113.0/32", ""},
		{"203.0.113.255", []string{"net4 203.0.113.0/24"}, []Cause{CauseHand}, 0, "203.0.113.255/32", ""},
		{"203.0.114.0", nil, nil, 0, "203.0.114.0/32", ""},
		{"203.0.113.77", []string{"ban4 203.0.113.77", "net4 203.0.113.0/24"}, []Cause{CauseOther, CauseHand}, 0, "203.0.113.77/32", "203.0.113.64/26"},
		{"2001:db8:1:1::1", []string{"ban6 2001:db8:1:1::/64", "net6 2001:db8:1:1::/65"}, []Cause{CauseTrap, CauseHand}, 3, "2001:db8:1:1::/64", ""},
		{"2001:db8:1:1:8000::1", []string{"ban6 2001:db8:1:1::/64"}, []Cause{CauseTrap}, 3, "2001:db8:1:1::/64", ""},
		{"2001:db8:1:2::1", nil, nil, 0, "2001:db8:1:2::/64", ""},
		{"2001:db8:2:ffff::1", []string{"net6 2001:db8:2::/48"}, []Cause{CauseHand}, 0, "2001:db8:2:ffff::/64", ""},
		{"2001:db8:4:4::9", []string{"ban6 2001:db8:4:4::/64", "subnet6 2001:db8:4::/48"}, []Cause{CauseTrap, CauseSubnet}, 1, "2001:db8:4:4::/64", ""},
		{"2001:db8:4:5::9", []string{"subnet6 2001:db8:4::/48"}, []Cause{CauseSubnet}, 0, "2001:db8:4:5::/64", ""},
		{"2001:db8:7:7::8", []string{"ban6 2001:db8:7:7::/64"}, []Cause{CauseOther}, 0, "2001:db8:7:7::/64", ""},
		{"2001:db8:7:7::9", []string{"ban6 2001:db8:7:7::/64"}, []Cause{CauseOther}, 0, "2001:db8:7:7::/64", "2001:db8:7:7::9"},
	} {
		sets, st := l.bannedBy(tt.addr)
		if !slices.Equal(sets, tt.sets) {
			t.Errorf("%s is banned by %q, want %q", tt.addr, sets, tt.sets)
			continue
		}
		for i, b := range st.Bans {
			if b.Cause != tt.causes[i] || b.Role == RoleBan && b.Step != tt.step {
				t.Errorf("%s: the ban is %s, want step %d and cause %q", tt.addr, b.text(), tt.step, tt.causes[i])
			}
		}
		if st.Step != tt.step || (st.StepRemaining > 0) != (tt.step > 0) || st.Source.String() != tt.source {
			t.Errorf("%s: source %v, step %d for %v, want %s and step %d", tt.addr, st.Source, st.Step, st.StepRemaining, tt.source, tt.step)
		}
		whitelisted := ""
		if st.Whitelisted != nil {
			whitelisted = st.Whitelisted.String()
		}
		if whitelisted != tt.whitelisted {
			t.Errorf("%s is whitelisted by %q, want %q", tt.addr, whitelisted, tt.whitelisted)
		}
		if st.Banned() {
			l.Cut(addr(tt.addr))
		} else {
			l.Served(addr(tt.addr))
		}
		if want := len(tt.sets) > 0 && tt.whitelisted == ""; st.Banned() != want {
			t.Errorf("%s: Banned() = %v", tt.addr, !want)
		}
	}
	// Other ways to write them.
	if sets, _ := l.bannedBy("::ffff:198.51.100.5"); !slices.Equal(sets, []string{"ban4 198.51.100.5"}) {
		t.Errorf("mapped, it is banned by %q", sets)
	}
	if st := l.lookup(addr("fe80::1%eth0")); st.Whitelisted == nil || st.Whitelisted.String() != "fe80::/10" {
		t.Errorf("with a zone, it is whitelisted by %v", st.Whitelisted)
	}
	// Bans says the same of each.
	for what, b := range l.bans() {
		st := l.lookup(b.From.Addr())
		if !slices.ContainsFunc(st.Bans, func(o Entry) bool {
			return o.Set == b.Set && o.Interval == b.Interval && o.Step == b.Step && o.Cause == b.Cause && o.Comment == b.Comment
		}) {
			t.Errorf("Bans says of %s %s, Lookup %v", what, b.text(), st.Bans)
		}
	}
}

// TestLookupAll asks about many at once, which is to find what to ask about each
// does.
func TestLookupAll(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Whitelist = []netip.Prefix{prefix("203.0.113.64/26"), prefix("2001:db8:7:7::9/128")}
	spec.Single6 = []netip.Prefix{prefix("2001:db8:8::/48")}
	spec.Knock = Knock{TCP: []uint16{9003, 7001}, Within: time.Minute, Allow: time.Hour}
	l := newTrap(t, spec)
	l.ban(Forever, "203.0.113.0/24", "2001:db8:2::/48")
	l.allow(time.Hour, "203.0.113.128/26", "2001:db8:2:2::/64")
	offenders := []netip.Addr{addr("198.51.100.5"), addr("2001:db8:1:1::5"), addr("2001:db8:8::5")}
	l.Offend(offenders...)
	l.Want(l.SYN(addr("198.51.100.9"), 200), netnstest.AnswerRST) // a suspect
	l.Want(l.SYN(addr("2001:db8:9:9::9"), 200), netnstest.AnswerRST)
	l.NFT("add element inet portmon knocked4 { 203.0.113.1 }")
	var addrs []netip.Addr
	for _, n := range []int{0, 1, 5, 9, 70, 130} {
		for _, net := range []string{"203.0.113.0", "198.51.100.0", "2001:db8:1:1::", "2001:db8:2:2::", "2001:db8:2:3::", "2001:db8:7:7::", "2001:db8:8::", "2001:db8:9:9::"} {
			b := addr(net).AsSlice()
			b[len(b)-1] = byte(n)
			a, _ := netip.AddrFromSlice(b)
			addrs = append(addrs, a)
		}
	}
	text := func(st Standing) string {
		s := fmt.Sprint(st.Source, st.Whitelisted, st.Step, st.Suspect, st.StepRemaining > 0)
		if st.Allowed != nil {
			s += fmt.Sprint(" allowed ", st.Allowed.Set, st.Allowed.Interval, st.Allowed.Cause)
		}
		for _, b := range st.Bans {
			s += fmt.Sprint(" ", b.Set, b.Interval, b.Step, b.Cause)
		}
		return s
	}
	said := ""
	for _, part := range [][]netip.Addr{addrs[:9], addrs, slices.Repeat(addrs, 3)} { // of which the last two are not few
		all, err := l.open().LookupAll(part...)
		if err != nil || len(all) != len(part) {
			t.Fatal(len(all), err)
		}
		for i, a := range part {
			said += text(all[i]) + "\n"
			if want, got := text(l.lookup(a)), text(all[i]); got != want {
				t.Errorf("among %d, %v stands at %s, alone at %s", len(part), a, got, want)
			}
		}
	}
	for _, want := range []string{"knocked4", "allow4", "allow6", "net4", "net6", "ban4", "ban6", "203.0.113.64/26", "1 false true", "0 true"} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing is said of %s: %s", want, said)
		}
	}
}

// TestProbed asks for closed ports, some of them twice.
func TestProbed(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.families(func(l *fixture, f family) {
		src, bystander := l.source(f), l.source(f)
		for _, port := range []uint16{300, lab.Closed, 200, 300} {
			l.Want(l.SYN(src, port), netnstest.AnswerRST)
		}
		l.Served(bystander) // which asks for a closed port as well
		if st := l.lookup(src); !st.Suspect || st.Banned() || st.Step != 0 {
			l.T.Errorf("%v stands at %+v", src, st)
		}
		for a, want := range map[netip.Addr][]uint16{src: {lab.Closed, 200, 300}, bystander: {lab.Closed}, l.source(f): nil} {
			if got := l.probed(a); !slices.Equal(got, want) {
				l.T.Errorf("%v has probed %v, want %v", a, got, want)
			}
		}
	})
}

// TestCauseOfASingleSource has a neighbour scan, which is banned by itself.
func TestCauseOfASingleSource(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Single6 = []netip.Prefix{prefix("2001:db8:6::/48")}
	l := newTrap(t, spec)
	for _, a := range []string{"2001:db8::7", "2001:db8:6:6::6", "2001:db8:7:7::7"} {
		src := addr(a)
		if a == "2001:db8::7" {
			l.Internet.AddAddr("eth0", a+"/64") // somebody must answer for it
		}
		for port := uint16(200); port < 205; port++ {
			l.Internet.Send(l.SYN(src, port))
		}
		l.Want(l.SYN(src, lab.OpenTCP), netnstest.NoAnswer)
		st := l.lookup(src)
		if len(st.Bans) != 1 || st.Bans[0].Cause != CauseScan || st.Bans[0].Step != 1 {
			t.Errorf("%s: the ban is %v, want one for a scan", a, st.Bans)
		}
		for _, b := range st.Bans {
			if have := l.bans()[b.Interval.String()]; have.Cause != CauseScan {
				t.Errorf("Bans says of %s: %s", a, have.text())
			}
		}
	}
	l.wantBans("2001:db8::7", "2001:db8:6:6::6", "2001:db8:7:7::/64")
	l.Served(addr("2001:db8:6:6::7"))
}
