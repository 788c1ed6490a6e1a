package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

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
