package watch

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// ladder has a first step that is over soon, and others that last.
var ladder = []time.Duration{2 * time.Second, 9 * time.Hour, 30 * time.Hour}

// second makes sources repeat offenders. The first step must be short.
func (l *fixture) second(w *watcher, sources ...netip.Addr) {
	l.T.Helper()
	l.Offend(sources...)
	w.want(Banned, 1, 1, sources...)
	l.AwaitFree(sources...)
	l.Offend(sources...)
	w.want(Escalated, 2, 2, sources...)
}

// What the packet path does is told and remembered, once each, with its port.
func TestPacketPath(t *testing.T) {
	t.Parallel()
	l := newLab(t, 4*time.Second, 5*time.Second, time.Hour)
	w := l.watch()
	offenders, bystanders := l.Sources(1), l.Sources(1)
	for i, step := range []int{1, 2, 3} {
		l.Offend(offenders...)
		l.Cut(offenders...)
		kind := Escalated
		if step == 1 {
			kind = Banned
		}
		w.want(kind, step, i+1, offenders...)
		for src, row := range w.rows(offenders...) {
			most := row.Remaining(now().Boot)
			left := l.left(src.Addr())
			if least := row.Remaining(now().Boot); left < least-slack || left > most+slack {
				t.Errorf("%v has %v left in the kernel, and %v to %v by the book", src, left, least, most)
			}
			if row.Step != step || row.Offences != i+1 || row.Cause != ruleset.CauseTrap || row.Port != lab.TrapTCP || row.Proto != 6 || row.ByHand {
				t.Errorf("%v is remembered as %+v, want step %d", src, row, step)
			}
		}
		l.Served(bystanders...)
		if step < 3 {
			l.AwaitFree(offenders...)
			l.Served(offenders...)
		}
	}
	w.quiet()
	s := w.stats()
	if s.Offences[Port{6, lab.TrapTCP}] != 6 || s.Escalations(2) != 2 || s.Escalations(3) != 2 || s.Bans[Place{4, 3}] != 1 || s.Bans[Place{6, 3}] != 1 {
		t.Errorf("stats are %+v", s)
	}
}

// A scan is told as such, with the port that was one too many.
func TestScan(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	scanners, bystanders := l.Sources(1), l.Sources(1)
	for port := range uint16(l.spec.Scan.Ports) {
		l.probe(1000+port, scanners...)
	}
	w.want(Banned, 1, 1, scanners...)
	for src, row := range w.rows(scanners...) {
		if row.Cause != ruleset.CauseScan || row.Port != 1000+uint16(l.spec.Scan.Ports)-1 {
			t.Errorf("%v is remembered as %+v, want a scan", src, row)
		}
	}
	w.stop()
	w = l.watch() // without a book, the table tells
	w.want(Banned, 1, 1, scanners...)
	for src, row := range w.rows(scanners...) {
		if row.Cause != ruleset.CauseScan || row.Step != 1 {
			t.Errorf("%v is found as %+v, want a scan", src, row)
		}
	}
	l.Cut(scanners...)
	l.Served(bystanders...)
}

// A subnet is told by its prefix.
func TestSubnet(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	l.spec.Subnet4, l.spec.Subnet6 = 3, 3
	l.apply()
	w := l.watch()
	bystanders := l.Sources(1)
	for _, of := range [][]string{
		{"203.0.113.1", "203.0.113.2", "203.0.113.3"}, {"2001:db8:7:1::1", "2001:db8:7:2::1", "2001:db8:7:3::1"},
	} {
		var sources []netip.Addr
		for _, text := range of {
			sources = append(sources, netip.MustParseAddr(text))
		}
		l.Offend(sources[:2]...)
		w.want(Banned, 1, 1, sources[:2]...)
		l.Offend(sources[2])
		bits := map[bool]int{true: 24, false: 48}[sources[0].Is4()]
		want := netip.PrefixFrom(sources[0], bits).Masked()
		if n, err := w.next(); err != nil || n.Kind != Banned || n.Source != want || n.Cause != ruleset.CauseSubnet || n.Step != 0 {
			t.Fatalf("got %v %+v, error %v, want the ban of %v", n.Kind, n, err, want)
		}
		l.Cut(sources...)
	}
	l.Served(bystanders...)
	w.quiet()
}

// probe sends a SYN to a port that is closed.
func (l *fixture) probe(port uint16, sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		l.Internet.Send(netnstest.SYN(src, l.To(src, port)))
	}
}

// A ban that another program makes, and that is one for an offence, climbs;
// with or without its mark, once there is a step on record.
func TestOffencesOfOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, 4*time.Second, 6*time.Second, time.Hour)
	w := l.watch()
	bystanders, sources := l.Sources(1), l.Sources(1)
	add := func(src netip.Addr, props string) {
		l.NFT(fmt.Sprintf("add element inet portmon %s { %v %s }", ruleset.RoleBan.Set(src, 0), l.source(src).Addr(), props))
	}
	for _, src := range sources {
		add(src, `timeout 1s comment "offence: guesses passwords"`)
		w.want(Banned, 1, 1, src)
		l.awaitStep(1, src)
		l.Cut(src)
	}
	l.AwaitFree(sources...)
	for _, src := range sources {
		add(src, "timeout 1s")
		w.want(Escalated, 2, 2, src)
		l.awaitStep(2, src)
	}
	l.AwaitFree(sources...)
	for _, src := range sources {
		add(src, "timeout 2h") // longer than the step deserves
		w.want(Escalated, 3, 3, src)
		l.awaitStep(3, src)
		if left := l.left(src); left < 2*time.Hour-lab.Patience {
			t.Errorf("%v is banned for %v, want the 2 h that were asked for", src, left)
		}
		// Again while it is banned: it has done nothing to deserve less.
		add(src, `timeout 1m comment "offence: again"`)
		lab.Await(t, "the longer ban is back", func() bool { return l.left(src) > 2*time.Hour-lab.Patience })
	}
	w.quiet()
	for src, row := range w.rows(sources...) {
		if row.Step != 3 || row.Offences != 3 || row.Cause != ruleset.CauseOther || row.ByHand {
			t.Errorf("%v is remembered as %+v", src, row)
		}
	}
	l.Served(bystanders...)
}

// A ban that says who made it is by hand, and lasts as long as it was asked
// for, whatever its source has done.
func TestBansByHandDoNotClimb(t *testing.T) {
	t.Parallel()
	l := newLab(t, time.Second, time.Hour)
	w := l.watch()
	bystanders, sources := l.Sources(1), l.Sources(1)
	for _, src := range sources {
		l.Offend(src)
		w.want(Banned, 1, 1, src)
	}
	l.AwaitFree(sources...)
	for _, src := range sources {
		l.NFT(fmt.Sprintf("add element inet portmon %s { %v timeout 10m comment \"the boss\" }", ruleset.RoleBan.Set(src, 0), l.source(src).Addr()))
		if n, err := w.next(); err != nil || n.Kind != ByHand || n.Source != l.source(src) {
			t.Errorf("got %v %+v, error %v, want a ban by hand of %v", n.Kind, n, err, src)
		}
		if left := l.left(src); left > 10*time.Minute {
			t.Errorf("%v is banned for %v, want 10 minutes", src, left)
		}
		l.Cut(src)
	}
	w.quiet()
	for src, row := range w.rows(sources...) {
		if row.Step != 1 || row.Offences != 1 || !row.ByHand {
			t.Errorf("%v is remembered as %+v", src, row)
		}
	}
	l.Served(bystanders...)
}

// `portmon ban --offence` climbs by itself, and the watcher makes it no more.
func TestOffend(t *testing.T) {
	t.Parallel()
	l := newLab(t, 5*time.Second, time.Hour, 2*time.Hour)
	w := l.watch()
	bystanders, sources := l.Sources(1), l.Sources(1)
	for step := 1; step <= 2; step++ {
		if _, _, err := l.Open().Offend(sources, "guesses passwords"); err != nil {
			t.Fatal(err)
		}
		w.want(map[int]Kind{1: Banned, 2: Escalated}[step], step, step, sources...)
		w.quiet()
		l.awaitStep(step, sources...)
		l.Cut(sources...)
		if step == 1 {
			l.AwaitFree(sources...)
		}
	}
	l.Served(bystanders...)
}

// Offences that a program has reported while no watcher ran are found.
func TestOffencesUnheard(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour, 2*time.Hour)
	sources, bystanders := l.Sources(1), l.Sources(1)
	for _, src := range sources {
		l.NFT(fmt.Sprintf("add element inet portmon %s { %v timeout 1m comment \"offence: x\" }", ruleset.RoleBan.Set(src, 0), l.source(src).Addr()))
	}
	for range 2 {
		w := l.watch()
		w.want(Banned, 1, 1, sources...)
		w.quiet()
		w.stop()
	}
	l.awaitStep(1, sources...)
	l.Cut(sources...)
	l.Served(bystanders...)
}

// What is whitelisted is lifted, and told.
func TestWhitelistedByOthers(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	friends, strangers := l.Sources(1), l.Sources(1)
	l.spec.Whitelist = append(l.spec.Whitelist, l.prefixes(friends...)...)
	l.apply()
	w := l.watch()
	for i, src := range friends {
		for _, props := range []string{"", `comment "offence: x"`} {
			l.NFT(fmt.Sprintf("add element inet portmon %s { %v %s }", ruleset.RoleBan.Set(src, 0), l.source(src).Addr(), props))
			w.awaitNews(Whitelisted, 1)
			lab.Await(t, "it is lifted", func() bool { return len(l.Lookup(src).Bans) == 0 })
		}
		l.NFT(fmt.Sprintf("add element inet portmon %s { %v timeout 1h }", ruleset.RoleBan.Set(strangers[i], 0), l.source(strangers[i]).Addr()))
		w.want(ByHand, 0, 0, strangers[i])
	}
	l.Served(friends...)
	l.Cut(strangers...)
	if rows := w.rows(friends...); len(rows) > 0 {
		t.Errorf("remembered are %v", rows)
	}
	w.quiet()
}

// A range is lifted as well, and of one that is whitelisted in part, that part.
func TestWhitelistedRangesOfOthers(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	for _, p := range []string{"198.51.100.0/24", "2001:db8:a::/48"} {
		l.spec.Whitelist = append(l.spec.Whitelist, netip.MustParsePrefix(p))
	}
	l.apply()
	// So that the sets of prefixes are asked.
	var known []netip.Prefix
	for _, p := range []string{"203.0.113.0/24", "2001:db8:f::/48"} {
		known = append(known, netip.MustParsePrefix(p))
		l.put(ruleset.Record{Source: known[len(known)-1], Banned: true})
	}
	w := l.watch()
	for _, tt := range []struct {
		from, to string
		lifted   int    // in so many prefixes
		left     string // what stays banned
	}{
		{"198.51.100.0", "198.51.100.255", 1, ""},
		{"198.51.100.1", "198.51.100.6", 4, ""},
		{"198.51.100.1", "198.51.100.2", 2, ""}, // two single keys
		{"198.51.100.254", "198.51.101.3", 1, "198.51.101.0/30"},
		{"2001:db8:a::1", "2001:db8:a::6", 4, ""},
		{"2001:db8:a:ffff::", "2001:db8:b:1:ffff:ffff:ffff:ffff", 1, "2001:db8:b::/63"},
	} {
		from := netip.MustParseAddr(tt.from)
		set := ruleset.RoleNet.Set(from, 0)
		l.NFT(fmt.Sprintf("add element inet portmon %s { %s-%s timeout 1h comment \"range\" }", set, tt.from, tt.to))
		w.awaitNews(Whitelisted, tt.lifted)
		want := slices.Clone(known)
		if tt.left != "" {
			want = append(want, netip.MustParsePrefix(tt.left))
		}
		var got []ruleset.Entry
		lab.Await(t, fmt.Sprintf("%s-%s is lifted", tt.from, tt.to), func() bool {
			got = nil
			for e, err := range l.Open().Entries(ruleset.RoleNet) {
				if err != nil {
					t.Fatal(err)
				}
				if p, ok := e.Prefix(); !ok || !slices.Contains(want, p) {
					return false
				}
				got = append(got, e)
			}
			return len(got) == len(want)
		})
		l.Served(from.Next())
		if tt.left == "" {
			w.quiet()
			continue
		}
		left := want[len(want)-1]
		l.Cut(left.Addr().Next())
		for _, e := range got {
			if p, _ := e.Prefix(); p == left && (e.Comment != "range" || e.Timeout != time.Hour || e.Remaining < time.Hour-lab.Patience) {
				t.Errorf("what is left is %+v", e)
			}
		}
		l.NFT(fmt.Sprintf("delete element inet portmon %s { %s }", set, tt.left))
		w.awaitNews(Lifted, 1)
	}
	w.quiet()
}
