package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// counterMeaning has what each counter counts, in the order in which a packet
// meets them.
var counterMeaning = []struct{ name, what string }{
	{ruleset.CounterTrapped, "packets to trap ports that count against their source"},
	{ruleset.CounterScanned, "packets to closed ports that completed a scan"},
	{ruleset.CounterBanned, "bans made"},
	{ruleset.CounterDropped, "packets dropped because their source is banned"},
	{ruleset.CounterFleet, "those of them whose source is banned by the fleet"},
	{ruleset.CounterFull, "offences dropped, but not banned: a set was full"},
	{ruleset.CounterHeldBack, "first offences dropped, but not banned: too many at a time"},
	{ruleset.CounterUncounted, "packets to closed ports not counted: too many at a time"},
	{ruleset.CounterUnroutable, "packets dropped, but not banned: no route back to their source"},
}

// print writes the report for people.
func (r *report) print(u *ui) {
	r.printForce(u)
	if r.You != nil {
		r.You.print(u)
	}
	if r.Present {
		r.printTraps(u)
	}
	r.printWatcher(u)
	if r.Present {
		r.printSets(u)
		r.printCounters(u)
	}
}

func (r *report) printForce(u *ui) {
	bad := func(s string) string { return paint(u.outColour, s, red) }
	observing := paint(u.outColour, "observing", yellow)
	switch {
	case r.idle != "":
		u.print("%s: %s: %s\n", r.Table, bad("not in force"), r.idle)
	case r.Current == nil && r.observes():
		u.print("%s: %s: nothing is dropped; whether as configured is not known\n", r.Table, observing)
	case r.Current == nil:
		u.print("%s: installed; whether as configured is not known\n", r.Table)
	case *r.Current && r.observes():
		u.print("%s: %s, as configured: nothing is dropped\n", r.Table, observing)
	case r.observes():
		u.print("%s: %s: nothing is dropped; %s: %s\n", r.Table, observing, bad("not as configured"), strings.Join(r.Differences, ", "))
	case *r.Current:
		u.print("%s: %s, as configured\n", r.Table, paint(u.outColour, "in force", green))
	default:
		u.print("%s: %s: %s\n", r.Table, bad("not as configured"), strings.Join(r.Differences, ", "))
	}
	if r.TrialSeconds > 0 {
		u.print("  on trial for another %s: %s keeps it\n", text.ShortDuration(time.Duration(r.TrialSeconds)), u.asCalled("`portmon confirm`"))
	}
	if g := r.LastGood; g != nil && g.Matches && !r.asConfigured() {
		u.print("  it is what the last good configuration says, %s\n", g.text)
	}
	u.warnStuck(r.Stuck)
}

// warnStuck reports what sets keep although the configuration has another value.
func (u *ui) warnStuck(stuck []string) {
	if len(stuck) > 0 {
		u.warn("this kernel does not change live sets: %s", strings.Join(stuck, "; "))
		u.hint("for a new table: stop the watcher, then `portmon save`, `nft delete table inet portmon`, `portmon apply`")
	}
}

func stuckTexts(stuck []ruleset.Stuck) (texts []string) {
	for _, k := range stuck {
		texts = append(texts, k.String())
	}
	return texts
}

func (r *report) printTraps(u *ui) {
	ports := r.trapReport.String()
	if ports == "" {
		ports = "none"
	}
	u.print("traps: %s\n", ports)
	if r.ArmedInSeconds > 0 {
		u.print("  armed in %s\n", text.ShortDuration(time.Duration(r.ArmedInSeconds)))
	}
	for _, l := range r.Listeners {
		u.print("  %s\n", l)
	}
}

func (r *report) printWatcher(u *ui) {
	w := r.Watcher
	if !w.Running {
		u.print("watcher: not running\n")
		return
	}
	since := w.Since.In(r.zone).Format(clockLayout)
	u.print("watcher: running since %s, pid %d; remembers %s\n", since, w.PID, text.Plural(w.Rows, "source"))
	for _, n := range w.Names {
		addresses := make([]string, len(n.Addresses))
		for i, a := range n.Addresses {
			addresses[i] = a.String()
		}
		u.print("  %s: %s", n.Name, cmp.Or(text.Enumerate(addresses, "and"), "no address yet"))
		if !n.Since.IsZero() {
			u.print(" since %s", n.Since.In(r.zone).Format(clockLayout))
		}
		u.print("\n")
	}
	for _, trouble := range []struct{ what, why string }{
		{"cannot save its state", w.SaveError},
		{"does not serve metrics at " + w.Metrics, w.MetricsError},
		{"finds that the table is not what its configuration says", w.TableWrong},
	} {
		if trouble.why != "" {
			u.warn("the watcher %s: %s", trouble.what, trouble.why)
		}
	}
	for _, n := range w.Names {
		if n.Error != "" {
			u.warn("the watcher has no good answer for %s: %s", n.Name, n.Error)
		}
	}
}

func (r *report) printSets(u *ui) {
	rows := [][]string{{"SET", "COUNT", "SIZE", "TIMEOUT"}}
	var full []string
	for _, s := range r.Sets {
		row := []string{s.Name, fmt.Sprint(s.Count), "-", "-"}
		if s.Size > 0 {
			row[2] = fmt.Sprint(s.Size)
		}
		if s.TimeoutSeconds > 0 {
			row[3] = text.Duration(time.Duration(s.TimeoutSeconds))
		}
		if s.Full {
			if role, _ := ruleset.RoleOf(s.Name); !role.Allows() && role != ruleset.RoleFleet {
				full = append(full, s.Name)
			}
			row = append(row, paint(u.outColour, "FULL", red))
		}
		rows = append(rows, row)
	}
	u.print("\n")
	u.table(slices.Values(rows), 0)
	if full != nil {
		u.warn("full: %s: %s", strings.Join(full, ", "), r.wouldBe("new offenders are dropped, but not banned or counted"))
		u.hint(raiseSize)
	}
}

func (r *report) printCounters(u *ui) {
	rows := [][]string{{"COUNTER", "PACKETS", "BYTES"}}
	dropped := 0
	for _, c := range counterMeaning {
		if t, ok := r.Counters[c.name]; ok {
			if ruleset.CountsDrops(c.name) {
				dropped += int(t.Packets)
			}
			rows = append(rows, []string{c.name, fmt.Sprint(t.Packets), fmt.Sprint(t.Bytes), r.wouldBe(c.what)})
		}
	}
	u.print("\n")
	u.table(slices.Values(rows), 0)
	u.print("%s\n", r.wouldBe(text.Plural(dropped, "packet")+" dropped in all"))
}

// wouldBe says of what is dropped that it would be, if the table observes.
func (r *report) wouldBe(what string) string {
	if r.observes() {
		what = strings.NewReplacer(" are dropped", " would be dropped", " dropped", " that would be dropped").Replace(what)
	}
	return what
}
