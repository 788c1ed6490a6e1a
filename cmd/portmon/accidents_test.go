package main

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// tooLong is how long nobody may be locked out of his host, by whatever
// accident.
const tooLong = 90 * time.Second

// long reports that the times are those of the manual, rather than short ones
// where it is a ratio that counts.
var long = os.Getenv("PORTMON_LONG") != ""

// firstStep is the first step of a ladder for those who wait.
var firstStep = map[bool]time.Duration{false: 5 * time.Second, true: time.Minute}[long]

// accident is one way of losing a host that portmon protects.
type accident struct {
	name string
	// by is what saves the administrator, as the manual says it.
	by string
	// conf is the configuration.
	conf string
	// before is what was there when it happened, the table and the stranger's
	// ban included.
	before func(s *scene)
	// happens is the accident.
	happens func(s *scene)
	// out says that it does lock the administrator out, until he is saved.
	out bool
	// saves is what the administrator or time does about it; nil is nothing.
	saves func(s *scene)
	// from is where the new session comes from; adminAddr4 if not said.
	from netip.Addr
	// free says that no table is in force at the end, so that the stranger is
	// let in.
	free bool
}

// TestAccidents has ways of losing a host come about, and measures for each how
// long it takes until a new SSH session works.
func TestAccidents(t *testing.T) {
	t.Parallel()
	tools := newTools(t)
	var mu sync.Mutex
	took := make(map[string]time.Duration)
	t.Run("each", func(t *testing.T) {
		for _, a := range accidents {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				d := a.run(newScene(t, tools, a.conf))
				mu.Lock()
				defer mu.Unlock()
				took[a.name] = d
			})
		}
	})
	if t.Failed() || len(took) < len(accidents) {
		return // some were not run: -run
	}
	t.Logf("\n%s", table(took))
	if !long {
		return // what takes a minute is shortened
	}
	const tolerance = 3.0 // seconds, for a machine that is not idle
	for i, want := range manualSeconds(t) {
		if got := took[accidents[i].name].Seconds(); math.Abs(got-want) > tolerance {
			t.Errorf("%s: %.1f s, and %.1f s in the manual", accidents[i].name, got, want)
		}
	}
}

// run makes the accident happen, and returns how long the administrator was
// out.
func (a *accident) run(s *scene) time.Duration {
	from := a.from
	if !from.IsValid() {
		from = adminAddr4
	}
	a.before(s)
	s.comeBy()
	begin := time.Now()
	a.happens(s)
	if a.out {
		s.locked(from)
	}
	if a.saves != nil {
		a.saves(s)
	}
	d := s.awaitLogin(from, begin)
	s.staysBy()
	want := netnstest.NoAnswer
	if a.free {
		want = netnstest.AnswerSYNACK
	}
	s.strangerIs(want)
	return d
}

// accidents are by what brings them about.
var accidents = slices.Concat(packetAccidents, configAccidents, banAccidents, kernelAccidents)

// table returns what the manual shows of accidents.
func table(took map[string]time.Duration) string {
	var b strings.Builder
	fmt.Fprintln(&b, accidentsHead)
	all := make([]float64, 0, len(took))
	for _, a := range accidents {
		seconds := math.Round(took[a.name].Seconds()*10) / 10
		all = append(all, seconds)
		fmt.Fprintf(&b, "| %s | %s | %.1f |\n", a.name, a.by, seconds)
	}
	return b.String() + "\n" + medianAndWorst(all) + "\n"
}

const accidentsHead = "| accident | what saves | seconds |\n|---|---|---:|"

func medianAndWorst(seconds []float64) string {
	slices.Sort(seconds)
	n := len(seconds)
	return fmt.Sprintf("Median %.1f s, worst %.1f s", seconds[n/2], seconds[n-1])
}

// TestManualHasTheAccidents compares the manual's table with what is tested.
func TestManualHasTheAccidents(t *testing.T) { manualSeconds(t) }

// manualSeconds returns the seconds of each accident in the manual, and fails the
// test if that has others.
func manualSeconds(t *testing.T) (inOrder []float64) {
	t.Helper()
	text, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), accidentsHead+"\n")
	rows, rest, _ := strings.Cut(rest, "\n\n")
	var seconds []float64
	for i, row := range strings.Split(rows, "\n") {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		if i >= len(accidents) || len(cells) != 3 || cells[0] != accidents[i].name || cells[1] != accidents[i].by {
			t.Fatalf("row %d of %d, which is none of %d accidents: %s", i+1, strings.Count(rows, "\n")+1, len(accidents), row)
		}
		s, err := strconv.ParseFloat(cells[2], 64)
		if err != nil || s > tooLong.Seconds() {
			t.Errorf("%s: %v", row, err)
		}
		seconds = append(seconds, s)
	}
	if len(seconds) != len(accidents) {
		t.Errorf("the manual has %d accidents of %d", len(seconds), len(accidents))
	}
	inOrder = slices.Clone(seconds)
	if want := medianAndWorst(seconds); !strings.Contains(rest, want) {
		t.Errorf("the manual does not say: %s", want)
	}
	return inOrder
}
