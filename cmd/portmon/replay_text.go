package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/machine"
	"github.com/portmon/portmon/internal/replay"
	"github.com/portmon/portmon/internal/text"
)

// mostSources is how many sources a list on the terminal shows.
const mostSources = 10

// printReplay writes what a replay has found, in 80 columns.
func (p *cli) printReplay(r *replay.Result) {
	now := r.Configured
	local := func(t time.Time) string { return t.In(p.now().Location()).Format(clockLayout) }
	p.print("%s in %s, %s to %s\n", text.Plural(r.Packets, "packet"), text.ShortDuration(r.To.Sub(r.From)), local(r.From), local(r.To))
	p.print("to this host: %s; programs listen on %s\n", addresses(r), services(r))
	p.print("%s to closed ports, of which %d would have been dropped: %s\n",
		text.Plural(r.Unwanted, "SYN"), now.DroppedUnwanted, share(now.DroppedUnwanted, r.Unwanted))
	p.print("%s dropped in all; %s of %s\n", text.Plural(now.Dropped, "packet"), text.Plural(now.Bans, "ban"), text.Plural(now.Offenders, "source"))
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{r.HeldBack, "of first offences, but no ban: too many at a time"},
		{r.Full, "of offences, but no ban: a set was full"},
	} {
		if c.n > 0 {
			p.print("%s dropped %s\n", text.Plural(int(c.n), "packet"), c.what)
		}
	}
	if r.Uncounted > 0 {
		p.print("%s to closed ports not counted: too many at a time\n", text.Plural(int(r.Uncounted), "packet"))
	}
	p.section("BANS", p.banRows(r))
	p.section("WHEN", p.momentRows(r))
	p.section("SETTINGS: the share of the SYNs that would have been dropped, and the bans", settingRows(r))
	p.print("* as configured; (n!) offenders that also used a service\n")
	p.section("OFFENDERS", p.offenderRows(r.Offenders))
	visitors := slices.DeleteFunc(slices.Clone(r.Offenders), func(o replay.Offender) bool { return o.Visits == 0 })
	slices.SortStableFunc(visitors, func(a, b replay.Offender) int { return b.Visits - a.Visits })
	p.section("POSSIBLE FALSE ALARMS: offenders that also sent data to a service", p.offenderRows(visitors))
	p.section("SETS", setRows(r))
	for _, n := range []int{len(r.Offenders), len(visitors)} {
		if n > mostSources {
			p.note("of %s, %d are shown: --json has all", text.Plural(n, "source"), mostSources)
		}
	}
	if r.Unlisted > 0 {
		p.note("%d bans are counted, of sources too many to list", r.Unlisted)
	}
}

// section writes a table under its title, unless it has no rows.
func (p *cli) section(title string, rows [][]string) {
	if len(rows) < 2 {
		return
	}
	p.print("\n%s\n", paint(p.outColour, title, bold))
	p.table(slices.Values(rows), p.columns)
}

// addresses lists those of the host, with how sure they are.
func addresses(r *replay.Result) string {
	return firstOf(mapped(r.Addrs, func(a netip.Addr) string {
		if how := r.CertaintyOf(a); how != replay.Certain {
			return a.String() + " (" + how.String() + ")"
		}
		return a.String()
	}), 3)
}

func share(part, whole int) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

// firstOf lists the first values of many, and how many more there are.
func firstOf[T any](all []T, most int) string {
	words := mapped(all[:min(len(all), most)], func(v T) string { return fmt.Sprint(v) })
	if more := len(all) - most; more > 0 {
		words = append(words, strconv.Itoa(more)+" more")
	}
	if len(words) == 0 {
		return "none"
	}
	return text.Enumerate(words, "and")
}

// services names the ports on which programs listen, each once.
func services(r *replay.Result) string {
	ports := mapped(r.Services, func(s machine.Service) string { return text.Port(s.Proto, s.Port()) })
	return firstOf(slices.Compact(ports), 8)
}

func (p *cli) banRows(r *replay.Result) [][]string {
	rows := [][]string{{"STEP", "BAN", "CAUSE", "BANS"}}
	for _, k := range r.Kinds {
		step, ban := "-", "-" // of a subnet
		if k.Step > 0 {
			step, ban = strconv.Itoa(k.Step), text.Duration(r.Configured.BanTime[k.Step-1])
		}
		rows = append(rows, []string{step, ban, k.Cause.String(), strconv.Itoa(k.Count)})
	}
	return rows
}

// momentRows has a row for each part of the time, with a bar for its SYNs, of
// which the full part was dropped.
func (p *cli) momentRows(r *replay.Result) [][]string {
	const widest = 24
	most := 1
	for _, m := range r.Moments {
		most = max(most, m.Unwanted)
	}
	layout := clockLayout
	if time.Duration(r.Width) >= 24*time.Hour {
		layout = time.DateOnly
	}
	rows := [][]string{{"FROM", "SYNS", "DROPPED", "BANS", "DROPPED # OF SYNS ."}}
	for _, m := range r.Moments {
		dropped := (m.Dropped*widest + most - 1) / most
		rest := (m.Unwanted*widest+most-1)/most - dropped
		rows = append(rows, []string{
			m.Start.In(p.now().Location()).Format(layout), strconv.Itoa(m.Unwanted), strconv.Itoa(m.Dropped), strconv.Itoa(m.Bans),
			strings.Repeat("#", dropped) + strings.Repeat(".", max(0, rest)),
		})
	}
	return rows
}

// ladderName writes the ban times of a ladder.
func ladderName(ladder []time.Duration) string {
	var words []string
	for _, d := range ladder {
		words = append(words, text.Duration(d))
	}
	return strings.Join(words, ",")
}

// settingRows has a row for each number of ports, and a column for each ladder.
// The configured setting is marked.
func settingRows(r *replay.Result) [][]string {
	cells := make(map[string]string)
	var ports, ladders []string
	appendNew := func(list []string, s string) []string {
		if slices.Contains(list, s) {
			return list
		}
		return append(list, s)
	}
	for _, s := range r.Settings {
		port, ladder := "off", ladderName(s.BanTime)
		if s.ScanPorts > 0 {
			port = strconv.Itoa(s.ScanPorts)
		}
		ports, ladders = appendNew(ports, port), appendNew(ladders, ladder)
		cell := share(s.DroppedUnwanted, r.Unwanted) + " " + strconv.Itoa(s.Bans)
		if s.Visitors > 0 {
			cell += " (" + strconv.Itoa(s.Visitors) + "!)"
		}
		if s.Current {
			cell += " *"
		}
		cells[port+" "+ladder] = cell
	}
	rows := [][]string{append([]string{"SCAN PORTS"}, ladders...)}
	for _, port := range ports {
		row := []string{port}
		for _, ladder := range ladders {
			row = append(row, cells[port+" "+ladder])
		}
		rows = append(rows, row)
	}
	return rows
}

func (p *cli) offenderRows(all []replay.Offender) [][]string {
	rows := [][]string{{"SOURCE", "DROPPED", "BANS", "LAST", "CAUSE", "PORT", "VISITS"}}
	for _, o := range all[:min(len(all), mostSources)] {
		visits := "-"
		if o.Visits > 0 {
			visits = fmt.Sprintf("%d, last to port %d", o.Visits, o.VisitPort)
		}
		rows = append(rows, []string{
			o.Source.String(), strconv.Itoa(o.Dropped), strconv.Itoa(o.Bans), o.Last.In(p.now().Location()).Format("2006-01-02 15:04"),
			o.Cause.String(), text.NamedPort(o.Protocol, o.Port), visits,
		})
	}
	return rows
}

func setRows(r *replay.Result) [][]string {
	rows := [][]string{{"SET", "NEEDED", "SIZE"}}
	for _, s := range r.Sets {
		rows = append(rows, []string{s.Name, strconv.Itoa(s.Needed), strconv.Itoa(s.Size)})
	}
	return rows
}

func mapped[A, B any](all []A, f func(A) B) []B {
	out := make([]B, len(all))
	for i, v := range all {
		out[i] = f(v)
	}
	return out
}
