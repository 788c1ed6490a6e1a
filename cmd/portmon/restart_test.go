package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// flush takes all nftables rules from a host, as their unit does when it
// starts.
func (s *site) flush(t *testing.T) {
	t.Helper()
	s.With(t).FlushRuleset()
}

// records are what a table holds, as texts.
func records(t *testing.T, s *site) (all []string) {
	t.Helper()
	c, err := nftset.Dial(&nftset.Config{NetNS: s.Host.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range h.Records() {
		if err != nil {
			t.Fatal(err)
		}
		if r.Allowed {
			all = append(all, fmt.Sprintf("%s allowed for ever %v by %q %q", r.Source, r.Remaining == 0, r.Cause, r.Comment))
			continue
		}
		all = append(all, fmt.Sprintf("%s banned %v for ever %v step %d cause %q %q",
			r.Source, r.Banned, r.Banned && r.Remaining == 0, r.Step, r.Cause, r.Comment))
	}
	slices.Sort(all)
	return all
}

// Whatever set is the only one that holds anything, save and apply carry that
// over two restarts.
func TestEachSetOutlastsRestarts(t *testing.T) {
	t.Parallel()
	for set, tt := range map[string]struct {
		elements []string // each with its set
		want     []string
	}{
		"ban4": {[]string{"ban4 203.0.113.7"}, []string{`203.0.113.7/32 banned true for ever false step 0 cause "other" ""`}},
		"ban6": {[]string{"ban6 2001:db8:5::"}, []string{`2001:db8:5::/64 banned true for ever false step 0 cause "other" ""`}},
		"ban6 alone": {
			[]string{`ban6 2001:db8:5::7 comment "one"`}, []string{`2001:db8:5::7/128 banned true for ever false step 0 cause "hand" "one"`},
		},
		"net4": {[]string{"net4 198.51.100.0/24"}, []string{`198.51.100.0/24 banned true for ever true step 0 cause "hand" "by hand"`}},
		"net6": {[]string{"net6 2001:db8:7::/48 timeout 1d"}, []string{`2001:db8:7::/48 banned true for ever false step 0 cause "hand" "by hand"`}},
		"net4, a range": {
			[]string{"net4 192.0.2.1-192.0.2.2 timeout 1h"},
			[]string{
				`192.0.2.1/32 banned true for ever false step 0 cause "hand" "by hand"`,
				`192.0.2.2/32 banned true for ever false step 0 cause "hand" "by hand"`,
			},
		},
		"subnet6":  {[]string{"subnet6 2001:db8:9::"}, []string{`2001:db8:9::/48 banned true for ever false step 0 cause "subnet" ""`}},
		"tier4_2":  {[]string{"tier4_2 203.0.113.8"}, []string{`203.0.113.8/32 banned false for ever false step 2 cause "" ""`}},
		"tier6_3":  {[]string{"tier6_3 2001:db8:5::"}, []string{`2001:db8:5::/64 banned false for ever false step 3 cause "" ""`}},
		"scanner4": {[]string{"tier4_1 203.0.113.9", "scanner4 203.0.113.9"}, []string{`203.0.113.9/32 banned false for ever false step 1 cause "scan" ""`}},
		"allow4":   {[]string{`allow4 203.0.113.7 timeout 1h comment "login: root"`}, []string{`203.0.113.7/32 allowed for ever false by "login" "root"`}},
		"allow6":   {[]string{`allow6 2001:db8:5::/64`}, []string{`2001:db8:5::/64 allowed for ever true by "hand" ""`}},
		"all of a scanner": {
			[]string{"ban4 203.0.113.9", "tier4_1 203.0.113.9", "scanner4 203.0.113.9"},
			[]string{`203.0.113.9/32 banned true for ever false step 1 cause "scan" ""`},
		},
	} {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			site, file := newSite(t), testConfig(t)
			site.run(t, file, "apply")
			for _, e := range tt.elements {
				set, element, _ := strings.Cut(e, " ")
				site.addElement(t, set, element)
			}
			for restart := range 2 {
				site.run(t, file, "save")
				site.run(t, file, "save")
				site.flush(t)
				site.run(t, file, "apply")
				site.run(t, file, "apply")
				if got := records(t, site); !slices.Equal(got, tt.want) {
					t.Errorf("after restart %d:\n%s\nwant\n%s", restart+1, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
			}
		})
	}
}

// run runs a command on a host with a configuration, and returns what it wrote.
// It must succeed.
func (s *site) run(t *testing.T, config string, args ...string) (stdout, stderr string) {
	t.Helper()
	e, out, errs := hostEnv(s.Host)
	var code int
	s.Host.Do(func() { code = run(e, append(slices.Clone(args), "--config", config)) })
	if code != exitDone {
		t.Fatalf("portmon %s: exit code %d, %s", strings.Join(args, " "), code, errs)
	}
	return out.String(), errs.String()
}

// What is put back does not shorten what the new table has by itself.
func TestRestoreAddsOnly(t *testing.T) {
	t.Parallel()
	const now = book.Moment(day)
	source := netip.MustParsePrefix("203.0.113.7/32")
	old := ruleset.Record{Source: source, Banned: true, Timeout: 600e9, Remaining: 300e9, Step: 1, StepRemaining: day}
	for name, tt := range map[string]struct {
		has          book.Row
		banned, step bool // are to be put back
	}{
		"nothing":       {book.Row{}, true, true},
		"a longer ban":  {book.Row{Source: source, Banned: true, Timeout: 600e9, Until: now.Add(600e9)}, false, true},
		"a shorter ban": {book.Row{Source: source, Banned: true, Timeout: 600e9, Until: now.Add(60e9)}, true, true},
		"for ever":      {book.Row{Source: source, Banned: true}, false, true},
		"a higher step": {book.Row{Source: source, Step: 2, StepUntil: now.Add(10e9)}, true, false},
		"allowed":       {book.Row{Source: source, Allowed: true}, true, true},
		"the same":      {book.Row{Source: source, Banned: true, Timeout: 600e9, Until: now.Add(300e9), Step: 1, StepUntil: now.Add(day)}, false, false},
	} {
		held := book.New(0)
		held.Put(tt.has)
		r := old
		if ok := addsTo(held, &r, now); r.Banned != tt.banned || r.Step > 0 != tt.step || ok != (tt.banned || tt.step) {
			t.Errorf("%s: puts back %+v, %v", name, r, ok)
		}
	}
}
