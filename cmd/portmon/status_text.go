package main

import (
	"fmt"
	"strings"
)

// counterMeaning says what the counters count, in the order in which a packet meets them.
var counterMeaning = []struct{ name, what string }{
	{"trapped", "packets to a trap port"},
	{"banned", "bans that they made"},
	{"full", "of them dropped with no room for a ban"},
	{"dropped", "packets from banned sources"},
}

// print writes the report for people.
func (r *report) print(u *ui) {
	r.printForce(u)
	if r.InForce {
		r.printTraps(u)
		r.printWatcher(u)
		r.printSets(u)
		r.printCounters(u)
	}
}

func (r *report) printForce(u *ui) {
	bad := func(s string) string { return paint(u.outColour, s, red) }
	good := func(s string) string { return paint(u.outColour, s, green) }
	switch {
	case !r.InForce:
		u.print("%s: %s: there is no such table\n", r.Table, bad("not in force"))
	case r.Current == nil:
		u.print("%s: %s\n", r.Table, good("in force"))
	case *r.Current:
		u.print("%s: %s, as configured\n", r.Table, good("in force"))
	default:
		u.print("%s: %s: %s\n", r.Table, bad("in force, but not as configured"), strings.Join(r.Differences, ", "))
	}
	for _, missing := range r.FeaturesMissing {
		u.print("missing: %s\n", missing)
	}
}

func (r *report) printTraps(u *ui) {
	ports := r.traps.String()
	if ports == "" {
		ports = "none"
	}
	u.print("traps: %s\n", ports)
	for _, line := range r.hearing {
		u.print("  %s\n", line)
	}
}

func (r *report) printWatcher(u *ui) {
	w := r.Watcher
	if !w.Running {
		u.print("watcher: not running, so every ban lasts as long as the first\n")
		return
	}
	u.print("watcher: running since %s, pid %d; knows %s\n", w.Since.In(r.zone).Format("2006-01-02 15:04:05"), w.PID, plural(w.Offenders, "offender"))
	if w.SaveFailures > 0 {
		u.warn("the watcher could not save its state %s: see its journal", plural(int(w.SaveFailures), "time"))
	}
}

func (r *report) printSets(u *ui) {
	rows := [][]string{{"SET", "BANS", "SIZE", "TIMEOUT"}}
	for _, s := range r.Sets {
		row := []string{s.Name, fmt.Sprint(s.Count), "-", s.timeout}
		if s.Size > 0 {
			row[2] = fmt.Sprint(s.Size)
		}
		if s.Full {
			row = append(row, paint(u.outColour, "FULL", red))
		}
		rows = append(rows, row)
	}
	u.print("\n")
	u.table(rows)
}

func (r *report) printCounters(u *ui) {
	rows := [][]string{{"COUNTER", "PACKETS", "BYTES"}}
	for _, c := range counterMeaning {
		if t, ok := r.Counters[c.name]; ok {
			rows = append(rows, []string{c.name, fmt.Sprint(t.Packets), fmt.Sprint(t.Bytes), c.what})
		}
	}
	u.print("\n")
	u.table(rows)
	if n := r.Counters["full"].Packets; n > 0 {
		u.warn("%s came when there was no room to ban the source: dropped, but not banned", plural(int(n), "trap packet"))
		u.hint("raise size in [ban] of the configuration, then run `portmon apply`")
	}
}
