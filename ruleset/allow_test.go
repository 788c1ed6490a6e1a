package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// allowance returns the record by which an administrator allows a prefix.
func allowance(p string, d time.Duration) Record {
	r := Record{Source: prefix(p), Allowed: true, Cause: CauseHand, Comment: "vacation"}
	if d != Forever {
		r.Timeout, r.Remaining = d, d
	}
	return r
}

// allow allows prefixes, and returns the bans that it lifted and those that stay.
func (l *fixture) allow(d time.Duration, prefixes ...string) (lifted, covered []string) {
	l.T.Helper()
	var records []Record
	for _, p := range prefixes {
		records = append(records, allowance(p, d))
	}
	refused, gone, stay, err := l.open().Allow(records)
	if err := errors.Join(append(refused, err)...); err != nil {
		l.T.Fatal(err)
	}
	return names(gone), names(stay)
}

// allowed returns what the table allows: "allow4 203.0.113.0/24".
func (l *fixture) allowed(ps ...netip.Prefix) []string {
	l.T.Helper()
	var all []Entry
	for e, err := range l.open().Allowed(ps...) {
		if err != nil {
			l.T.Fatal(err)
		}
		all = append(all, e)
	}
	return names(all)
}

// harmless sends what would be offences of others.
func (l *fixture) harmless(src netip.Addr) {
	l.T.Helper()
	for port := uint16(9001); port < 9009; port++ {
		l.Want(l.SYN(src, port), netnstest.AnswerRST)
	}
	l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
	l.Want(l.TCP(src, lab.TrapTCP, fin|psh|urg), netnstest.AnswerRST)
	l.Want(l.UDP(src, trapUDP), netnstest.AnswerPortUnreachable)
}

// TestAllow allows who is banned, and who is not.
func TestAllow(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newContainer()
	l.families(func(l *fixture, f family) {
		offender, other, bystander := l.source(f), l.source(f), l.source(f)
		routed := func(src netip.Addr) netnstest.Packet { return netnstest.SYN(src, at(container(src), lab.OpenTCP)) }
		l.Offend(offender, other)
		l.Cut(offender, other)
		l.Want(routed(offender), netnstest.NoAnswer)
		before := l.counters()

		network := banOf(offender)
		if !f.is6() {
			network += "/32"
		}
		lifted, covered := l.allow(time.Hour, network)
		if want := []string{f.ban() + " " + banOf(offender)}; !slices.Equal(lifted, want) || covered != nil {
			l.T.Errorf("lifted %q, and left %q, want %q", lifted, covered, want)
		}
		l.Want(l.SYN(offender, lab.OpenTCP), netnstest.AnswerSYNACK) // the first packet
		l.Want(routed(offender), netnstest.AnswerSYNACK)
		if st := l.lookup(offender); st.Step != 0 || st.Banned() || st.Allowed == nil ||
			st.Allowed.Cause != CauseHand || st.Allowed.Comment != "vacation" || st.Allowed.Remaining <= 59*time.Minute {
			l.T.Errorf("it is allowed, but the table says %+v", st)
		}
		l.harmless(offender)
		l.Served(offender, bystander)
		l.Cut(other)
		l.Want(routed(other), netnstest.NoAnswer)
		after := l.counters()
		if after[CounterTrapped] != before[CounterTrapped] || after[CounterBanned] != before[CounterBanned] {
			l.T.Errorf("the counters went from %v to %v", before, after)
		}
		if st := l.lookup(offender); st.Suspect || len(st.Bans) > 0 {
			l.T.Errorf("what it did counts against it: %+v", st)
		}

		ended, covered2, err := l.open().Disallow(prefix(network))
		if err != nil || len(ended) != 1 || covered2 != nil {
			l.T.Fatalf("ended %v, left %v, %v", ended, covered2, err)
		}
		l.Offend(offender)
		l.Cut(offender)
		l.Served(bystander)
	})
}

// TestAllowWithinWiderBans has bans stay of which a part is allowed.
func TestAllowWithinWiderBans(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newContainer()
	l.Offend(addr("2001:db8:5:6::7"))
	l.ban(time.Hour, "203.0.113.0/24", "2001:db8:7::/48")
	all := []string{"203.0.113.7", "2001:db8:5:6::7", "2001:db8:7:7::7"}
	neighbours := []string{"203.0.113.8", "2001:db8:5:6::8", "2001:db8:7:7::8"}
	for i, a := range all {
		l.Cut(addr(a), addr(neighbours[i]))
		own := addr(a)
		lifted, covered := l.allow(time.Hour, fmt.Sprintf("%s/%d", own, own.BitLen()))
		if len(lifted) != 0 || len(covered) != 1 {
			t.Errorf("allow %s: lifted %q, left %q, want one that stays", a, lifted, covered)
		}
		l.Served(own)
		l.Want(netnstest.SYN(own, at(container(own), lab.OpenTCP)), netnstest.AnswerSYNACK)
		l.harmless(own)
		l.Cut(addr(neighbours[i]))
		l.Want(netnstest.SYN(addr(neighbours[i]), at(container(own), lab.OpenTCP)), netnstest.NoAnswer)
	}
	l.wantBans("203.0.113.0/24", "2001:db8:5:6::/64", "2001:db8:7::/48")
}

// TestAllowedCannotBeBanned asks before, and tries.
func TestAllowedCannotBeBanned(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.allow(time.Hour, "203.0.113.0/24", "2001:db8:5:6::7/128")
	h := l.open()
	sources := []netip.Prefix{
		prefix("203.0.113.7/32"), prefix("203.0.113.0/25"), prefix("203.0.112.0/23"), prefix("2001:db8:5:6::7/128"), prefix("2001:db8:5:6::/64"),
	}
	for range few { // so many that the sets are read at once
		var records []Record
		for _, p := range sources {
			records = append(records, byHand(p, time.Hour))
		}
		refused, err := h.Check(sources...)
		put, putErr := h.Put(records)
		if err := errors.Join(err, putErr); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"203.0.113.0/24", "203.0.113.0/24", "", "2001:db8:5:6::7", ""} {
			for _, err := range []error{refused[i], put[i]} {
				var allowed *AllowedError
				if errors.As(err, &allowed); (want == "") != (err == nil) || allowed != nil && allowed.Entry.Interval.String() != want {
					t.Errorf("%s: %v, want it to be allowed by %q", sources[i], err, want)
				}
			}
		}
		sources = append(sources, sources[4])
	}
	put, refused, err := h.Offend([]netip.Addr{addr("203.0.113.9"), addr("2001:db8:5:6::7"), addr("198.51.100.9")}, "sshd")
	if err != nil || len(put) != 1 || !errors.As(refused[0], new(*AllowedError)) || !errors.As(refused[1], new(*AllowedError)) || refused[2] != nil {
		t.Errorf("Offend put %v, refused %v, %v", put, refused, err)
	}
	l.wantBans("203.0.112.0/23", "2001:db8:5:6::/64", "198.51.100.9")
	l.Served(addr("203.0.113.9"), addr("2001:db8:5:6::7"))
	l.Cut(addr("203.0.112.9"), addr("2001:db8:5:6::8"))
}

// TestAllowancesOverlap has each address allowed as long as the longest allowance
// of it.
func TestAllowancesOverlap(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.allow(Forever, "203.0.113.64/26")
	l.allow(time.Hour, "203.0.113.0/24")
	l.allow(2*time.Hour, "203.0.113.64/27") // has no effect
	want := []string{"allow4 203.0.113.0/26", "allow4 203.0.113.128/25", "allow4 203.0.113.64/26"}
	if got := l.allowed(); !slices.Equal(got, want) {
		t.Errorf("allowed are %q, want %q", got, want)
	}
	if got := l.allowed(prefix("203.0.113.3/32")); !slices.Equal(got, want[:1]) {
		t.Errorf("allowed of 203.0.113.3 is %q, want %q", got, want[:1])
	}
	ended, covered, err := l.open().Disallow(prefix("203.0.113.0/25"), prefix("203.0.113.200/32"))
	if err != nil || !slices.Equal(names(ended), []string{want[0], want[2]}) || !slices.Equal(names(covered), want[1:2]) {
		t.Errorf("ended %q, left %q, %v", names(ended), names(covered), err)
	}
	l.harmless(addr("203.0.113.200"))
	l.Offend(addr("203.0.113.100"))
	l.wantBans("203.0.113.100")
}

// TestAllowanceEnds has one end beside others that go on.
func TestAllowanceEnds(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.allow(time.Hour, "203.0.113.0/25", "2001:db8:5::/48")
	l.allow(2*time.Second, "203.0.113.128/25", "2001:db8:6::/48")
	l.harmless(addr("203.0.113.200"))
	l.harmless(addr("2001:db8:6::7"))
	lab.Await(t, "the allowances to end", func() bool { return len(l.allowed()) == 2 })
	if err := l.open().TidyNets(); err != nil {
		t.Fatal(err)
	}
	l.Offend(addr("203.0.113.200"), addr("2001:db8:6::7"))
	l.Cut(addr("203.0.113.200"), addr("2001:db8:6::7"))
	l.harmless(addr("203.0.113.100"))
	l.harmless(addr("2001:db8:5::7"))
}

// TestAllowedAreBounded fills the set.
func TestAllowedAreBounded(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	records := make([]Record, MaxAllowed)
	a := addr("198.18.0.1")
	for i := range records {
		records[i] = allowance(a.String()+"/32", time.Hour)
		a = a.Next().Next()
	}
	l.put(records...)
	more := []Record{records[5], allowance(a.String()+"/32", time.Hour), allowance("2001:dc8:1::/48", time.Hour)}
	refused, err := l.open().Put(more)
	var full *AllowFullError
	if err != nil || refused[0] != nil || !errors.As(refused[1], &full) || full.Prefix != more[1].Source || full.Set != "allow4" || refused[2] != nil {
		t.Errorf("one more, and two that fit: %v, %v, want one *AllowFullError", refused, err)
	}
	l.put(records[7], allowance("2001:db8::/32", time.Hour)) // once more, and of the other family
	if n := len(l.allowed()); n != MaxAllowed+2 {
		t.Errorf("%d are allowed, want %d", n, MaxAllowed+2)
	}
	if fill, err := l.open().Fill(); err != nil || !slices.Contains(fill, Fill{"allow4", MaxAllowed, MaxAllowed}) {
		t.Errorf("Fill returns %v, %v, which does not say that allow4 is full", fill, err)
	}
	l.harmless(addr("198.18.0.1"))
}

// TestApplyKeepsAllowances changes the configuration, and all that can be.
func TestApplyKeepsAllowances(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, spec)
	l.allow(time.Hour, "203.0.113.0/24", "2001:db8:5:6::7/128")
	l.allow(Forever, "198.51.100.7/32")
	before := l.allowed()
	spec.Prefix6, spec.Size, spec.BanTime, spec.Scan.Ports = 56, 1000, spec.BanTime[:1], 1
	l.apply(spec)
	if after := l.allowed(); !slices.Equal(before, after) {
		t.Errorf("allowed were %q, and are %q", before, after)
	}
	for _, a := range []string{"203.0.113.7", "2001:db8:5:6::7", "198.51.100.7"} {
		l.harmless(addr(a))
	}
	l.Offend(addr("2001:db8:5:6::8"))
	if p := l.prepare(spec); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}
	l.forgive()
	if after := l.allowed(); !slices.Equal(before, after) {
		t.Errorf("unban --all ended allowances: %q", after)
	}
}

// loggedIn returns the records of logins: the first of them is the oldest.
func loggedIn(n int, from func(i int) string) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = allowance(from(i), 24*time.Hour)
		records[i].Cause, records[i].Comment = CauseLogin, "mallory"
		records[i].Remaining -= time.Duration(n-i) * time.Second
	}
	return records
}

// TestLoginsLeaveRoom has one who may log in do so from everywhere: the oldest
// logins make room for newer ones, and all of them for others.
func TestLoginsLeaveRoom(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	many := func(n int) []Record {
		return loggedIn(n, func(i int) string { return fmt.Sprintf("2001:db8:%x:%x::/64", 0x100+i/maxLoginsOf, i%maxLoginsOf) })
	}
	put := func(records ...Record) (refused int) {
		t.Helper()
		errs, err := l.open().Put(records)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range errs {
			if err != nil {
				refused++
			}
		}
		return refused
	}
	of := func(p string) int { t.Helper(); return len(l.allowed(prefix(p))) }

	l.put(allowance("2001:db8:100::/64", time.Hour)) // counts, but stays
	one := loggedIn(maxLoginsOf+9, func(i int) string { return fmt.Sprintf("2001:db8:9:%x::/64", i) })
	if n := put(one...); n != 9 {
		t.Errorf("of one /48, %d logins were refused, want 9", n)
	}
	for _, r := range []Record{one[8], one[9]} {
		if n, want := of(r.Source.String()), len(one)-maxLoginsOf; n != 1 && r.Source == one[9].Source || n != 0 && r.Source == one[8].Source {
			t.Errorf("%d allowances of %v, of which the oldest %d have no room", n, r.Source, want)
		}
	}
	newer := loggedIn(1, func(int) string { return "2001:db8:9:ffff::/64" })
	if n := put(newer...); n != 0 || of("2001:db8:9:ffff::/64") != 1 || of("2001:db8:9:9::/64") != 0 || of("2001:db8:9::/48") != maxLoginsOf {
		t.Errorf("the newest login does not have the place of the oldest one of its /48: %d refused", n)
	}

	put(many(MaxAllowed)...)
	if n := of("2001:db8::/32"); n > maxLogins || n < maxLogins-1 {
		t.Errorf("%d are allowed, want %d", n, maxLogins)
	}
	if of("2001:db8:100::/64") != 1 {
		t.Error("logins have taken the place of an allowance by hand")
	}
	l.put(loggedIn(1, func(int) string { return "2001:db8:8:ffff::/64" })...)
	var hand []Record
	for i := range MaxAllowed - maxLogins + 9 {
		hand = append(hand, allowance(fmt.Sprintf("2001:db8:7:%x::/64", i), time.Hour))
	}
	if n := put(hand...); n != 0 {
		t.Errorf("%d of those by hand were refused, where logins have all places", n)
	}
	if n := of("2001:db8:7::/48"); n != len(hand) {
		t.Errorf("%d are allowed by hand, want %d", n, len(hand))
	}
	if of("2001:db8:8:ffff::/64") != 1 {
		t.Error("the newest login is not allowed any more")
	}
}

// TestAllowedByHandStays has what an administrator has allowed stay when a name
// or a login that allows it too ends, whichever came first.
func TestAllowedByHandStays(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	const exact, inside, around = "203.0.113.7/32", "2001:db8:5:6::7/128", "198.51.100.0/24"
	hand := []Record{allowance(exact, time.Hour), allowance(inside, time.Hour), allowance(around, time.Hour)}
	other := func(by Cause) (records []Record) {
		for _, p := range []string{exact, "2001:db8:5:6::/64", "198.51.100.7/32"} {
			r := allowance(p, 24*time.Hour)
			r.Cause, r.Comment = by, "home.example.org"
			records = append(records, r)
		}
		return records
	}
	for _, by := range []Cause{CauseName, CauseLogin} {
		for _, first := range []bool{true, false} {
			records := other(by)
			if first {
				l.put(records...)
				l.put(hand[1:]...)
			} else {
				l.put(hand...)
				l.put(records...)
			}
			h := l.open()
			var ends []nftset.Interval
			for e, err := range h.Allowed() {
				if err != nil {
					t.Fatal(err)
				}
				if ends = append(ends, e.Interval); e.Remaining < 23*time.Hour && e.Contains(nftset.AddrKey(addr("198.51.100.7"))) {
					t.Errorf("%v ends sooner, as it was allowed by hand: %v", e.Interval, e.Remaining)
				}
			}
			if err := h.EndAllowed(by, ends...); err != nil {
				t.Fatal(err)
			}
			l.harmless(addr("2001:db8:5:6::7"))
			l.harmless(addr("198.51.100.7"))
			if st := l.lookup(addr("203.0.113.7")); (st.Allowed == nil) != first {
				t.Errorf("%v: allowed as %+v", by, st.Allowed)
			}
			if st := l.lookup(addr("2001:db8:5:6::8")); st.Allowed != nil {
				t.Errorf("%v: what was not by hand is allowed still: %+v", by, st.Allowed)
			}
			if _, _, err := h.Disallow(prefix("0.0.0.0/0"), prefix("::/0")); err != nil {
				t.Fatal(err)
			}
		}
	}
}
