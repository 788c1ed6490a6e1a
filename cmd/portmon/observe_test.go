package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/netnstest"
)

// TestObserveThenEnforce has a table that observes enforce while sources
// offend: nothing is dropped before, the first packet is after, and of what was
// observed nothing is, unless it is kept; nor later, over a flush and a restart.
func TestObserveThenEnforce(t *testing.T) {
	t.Parallel()
	for _, watched := range []bool{false, true} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("watched %v, keep %v", watched, keep), func(t *testing.T) {
				t.Parallel()
				newSwitching(t, watched, keep).run()
			})
		}
	}
}

// switching is a host whose table observes, and is to enforce.
type switching struct {
	*storm
	watched, keep      bool
	observed, enforced []netip.Addr // those whose offences were, in the order that they came
	bystander          netip.Addr
}

func newSwitching(t *testing.T, watched, keep bool) *switching {
	s := &switching{storm: newStorm(t), watched: watched, keep: keep}
	s.bystander = s.Source4()
	return s
}

func (s *switching) run() {
	s.write("observe")
	s.must("apply")
	if s.watched {
		s.startWatcher()
		s.settle()
	}
	for range 5 {
		s.send()
	}
	if len(s.enforced) > 0 {
		s.t.Fatalf("dropped although the table observes: offences of %v", s.enforced)
	}
	s.save()
	s.write("enforce")
	args := []string{"apply"}
	if s.keep {
		args = append(args, "--keep")
	}
	done := make(chan string)
	go func() {
		code, _, stderr := s.portmon(args...)
		done <- fmt.Sprintln(code) + stderr
	}()
	for ended := false; !ended; s.send() {
		select {
		case said := <-done:
			if ended = true; !strings.HasPrefix(said, "0\n") {
				s.t.Fatalf("apply: %s", said)
			}
		default:
		}
	}
	if s.t.Logf("%d offences were observed, %d enforced", len(s.observed), len(s.enforced)); len(s.enforced) == 0 {
		s.t.Fatal("an offence passes although the table enforces")
	}
	s.check("after apply")

	s.save()
	s.FlushRuleset()
	if s.watched {
		lab.Await(s.t, "the watcher to put the bans back", func() bool {
			code, list, _ := s.portmon("list", "--count")
			return code == exitDone && list == fmt.Sprintln(len(s.banned()))
		})
	} else {
		s.must("apply")
	}
	s.check("after a flush")

	s.save()
	s.kill(unix.SIGKILL)
	s.FlushRuleset()
	s.must("apply")
	if s.watched {
		s.startWatcher()
		s.settle()
	}
	s.check("after a restart")
}

// write writes a configuration.
func (s *switching) write(mode string) {
	conf := fmt.Sprintf("mode = %q\nwhitelist = [\"192.0.2.200\"]\n[trap]\ngrace = \"0s\"\n[watch]\nstate = %q\n", mode, s.state())
	if err := os.WriteFile(s.file(), []byte(conf), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *switching) save() {
	s.t.Helper()
	if s.watched {
		s.settle()
	} else {
		s.must("save")
	}
}

// send sends what shows whether the table enforces: an offence of a new source,
// and what those before ask for.
func (s *switching) send() {
	s.t.Helper()
	src := s.Source4()
	if len(s.observed)%2 == 1 {
		src = s.Source6()
	}
	switch a := s.Probe(src, lab.TrapTCP); {
	case a.Kind == netnstest.NoAnswer:
		s.enforced = append(s.enforced, src)
		s.Want(s.SYN(src, lab.OpenTCP), netnstest.NoAnswer)
	case len(s.enforced) > 0:
		s.t.Errorf("%v offends and gets %v, after the table has enforced", src, a)
	default:
		s.observed = append(s.observed, src)
	}
	s.Want(s.SYN(s.bystander, lab.OpenTCP), netnstest.AnswerSYNACK)
	if len(s.observed) > 0 && !s.keep {
		s.Want(s.SYN(s.observed[0], lab.OpenTCP), netnstest.AnswerSYNACK)
	}
}

// banned returns those who must be.
func (s *switching) banned() []netip.Addr {
	if s.keep {
		return slices.Concat(s.observed, s.enforced)
	}
	return s.enforced
}

// check fails the test unless exactly those are dropped and listed who must be.
func (s *switching) check(when string) {
	s.t.Helper()
	var want, got []string
	for _, src := range s.banned() {
		s.Want(s.SYN(src, lab.OpenTCP), netnstest.NoAnswer)
		source := netip.PrefixFrom(src, src.BitLen())
		if src.Is6() {
			source, _ = src.Prefix(64)
		}
		want = append(want, text.Prefix(source))
	}
	for _, src := range s.observed {
		if !s.keep {
			s.Want(s.SYN(src, lab.OpenTCP), netnstest.AnswerSYNACK)
		}
	}
	s.Want(s.SYN(s.bystander, lab.OpenTCP), netnstest.AnswerSYNACK)
	var list struct {
		Bans []struct{ Prefix netip.Prefix }
	}
	if err := json.Unmarshal([]byte(s.must("list", "--json")), &list); err != nil {
		s.t.Fatal(err)
	}
	for _, b := range list.Bans {
		got = append(got, text.Prefix(b.Prefix))
	}
	slices.Sort(want)
	if slices.Sort(got); !slices.Equal(got, want) {
		s.t.Errorf("%s, banned are %v, want %v", when, got, want)
	}
}

// TestLookInBetween has a table that enforces observe for a while: whoever was
// banned before, by hand even meanwhile, is banned after it as if there had been
// nothing, and is let through by no packet once the table drops again; so does a
// reboot or a flush. What was observed is forgotten.
func TestLookInBetween(t *testing.T) {
	t.Parallel()
	for _, watched := range []bool{false, true} {
		t.Run(fmt.Sprintf("watched %v", watched), func(t *testing.T) {
			t.Parallel()
			newSwitching(t, watched, false).lookInBetween()
		})
	}
}

func (s *switching) lookInBetween() {
	s.write("enforce")
	s.must("apply")
	if s.watched {
		s.startWatcher()
		s.settle()
	}
	before := []netip.Addr{s.Source4(), s.Source6(), netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.77"),
		netip.MustParseAddr("2001:db8:f00:1::1"), netip.MustParseAddr("203.0.113.200")}
	for _, src := range before[:2] {
		s.Want(s.SYN(src, lab.TrapTCP), netnstest.NoAnswer)
	}
	again := s.Source4()
	s.Want(s.SYN(again, lab.TrapTCP), netnstest.NoAnswer)
	s.settled()
	s.must("ban", before[2].String(), "--for", "3d", "--reason", "abuse")
	s.must("ban", "203.0.113.64/26", "--for", "forever")
	s.must("ban", "2001:db8:f00::/40", "--for", "2d")
	s.must("allow", "198.51.100.250", "--for", "2d")
	s.nft("delete element inet portmon ban4 { " + again.String() + " }") // leaves the step
	s.settled()

	s.must("apply", "--observe")
	s.must("ban", before[5].String(), "--reason", "meanwhile")
	for _, src := range before {
		s.Want(s.SYN(src, lab.OpenTCP), netnstest.AnswerSYNACK)
	}
	s.observed = []netip.Addr{s.Source4(), s.Source6(), again}
	for _, src := range s.observed {
		s.Want(s.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
	}
	s.settled()
	want := s.banList(s.observed...)
	if n := len(want); n != len(before) {
		s.t.Errorf("before, %d sources are banned, want %d: %v", n, len(before), want)
	}

	done := make(chan string)
	go func() {
		code, _, stderr := s.portmon("apply")
		done <- fmt.Sprintln(code) + stderr
	}()
	for ended, dropped := false, false; !ended; {
		select {
		case said := <-done:
			if ended = true; !strings.HasPrefix(said, "0\n") {
				s.t.Fatalf("apply: %s", said)
			}
		default:
		}
		for _, src := range before {
			kind := s.Probe(src, lab.OpenTCP).Kind
			if dropped && kind != netnstest.NoAnswer {
				s.t.Errorf("%v is let through although the table has dropped packets of others", src)
			}
			dropped = dropped || kind == netnstest.NoAnswer
		}
	}
	s.sameBans("after the switch", want)
	s.settled()
	s.sameBans("a little later", want)
	s.FlushRuleset()
	if s.watched {
		lab.Await(s.t, "the watcher to put the bans back", func() bool {
			code, list, _ := s.portmon("list", "--count")
			return code == exitDone && list == fmt.Sprintln(len(want))
		})
	} else {
		s.must("apply")
	}
	s.sameBans("after a flush", want)
	s.kill(unix.SIGKILL)
	s.FlushRuleset()
	s.must("apply")
	s.sameBans("after a restart", want)

	for _, src := range before {
		s.Want(s.SYN(src, lab.OpenTCP), netnstest.NoAnswer)
	}
	for _, src := range s.observed {
		s.Want(s.SYN(src, lab.OpenTCP), netnstest.AnswerSYNACK)
		s.Want(s.SYN(src, lab.TrapTCP), netnstest.NoAnswer)
	}
	list := s.banList()
	for i, src := range s.observed { // the first offence that counts, but for who had offended before
		if step := map[bool]int{false: 1, true: 2}[src == again]; list[s.sourceOf(src)].Tier != step {
			s.t.Errorf("offender %d is banned by tier %d, want %d", i, list[s.sourceOf(src)].Tier, step)
		}
	}
	if list := s.must("list", "--allowed"); !strings.Contains(list, "198.51.100.250") {
		s.t.Errorf("allowed is %s", list)
	}
}

// settled returns when all is known that has happened.
func (s *switching) settled() {
	s.t.Helper()
	if s.watched {
		s.settle()
	}
}

func (s *switching) sourceOf(a netip.Addr) string {
	if a.Is6() {
		p, _ := a.Prefix(64)
		return text.Prefix(p)
	}
	return a.String()
}

// banList returns what is banned, but for some.
func (s *switching) banList(but ...netip.Addr) map[string]listedBan {
	s.t.Helper()
	out := make(map[string]listedBan)
	for _, b := range listBans(s.t, s.Host) {
		out[text.Prefix(b.Prefix)] = b
	}
	for _, a := range but {
		delete(out, s.sourceOf(a))
	}
	return out
}

func (s *switching) sameBans(when string, want map[string]listedBan) {
	s.t.Helper()
	got := s.banList()
	for source, was := range want {
		is, ok := got[source]
		if !ok || is.Until.Sub(was.Until).Abs() > 2*time.Second || is.Cause != was.Cause || is.Tier != was.Tier || is.TimeoutSeconds != was.TimeoutSeconds {
			s.t.Errorf("%s, the ban of %s is %+v, was %+v", when, source, is, was)
		}
	}
	if len(got) > len(want) {
		s.t.Errorf("%s, banned are %v, want %v", when, slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(want)))
	}
}
