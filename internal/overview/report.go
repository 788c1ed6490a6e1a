// Package overview says what the table has done over some days: as a page for a
// terminal, and as one HTML file without scripts for a mail or an archive.
package overview

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// Report is the content of a report. Its JSON is that of `portmon report
// --json`.
type Report struct {
	Version int       `json:"version"`
	Host    string    `json:"host,omitempty"`
	Made    time.Time `json:"made"`
	// Mode is "observe" or "enforce", or empty if there is no table.
	Mode string `json:"mode,omitempty"`
	// Since is when counting began, if that was within the days of the report.
	Since time.Time `json:"since,omitzero"`
	// Days are the days of the report, the oldest first, and Total is their sum.
	Days  []Day `json:"days"`
	Total Sum   `json:"total"`
	// Causes and Steps count the bans that were noted as they were made, and
	// Ports, Countries and Networks the offences among them.
	Causes    []Item `json:"causes"`
	Steps     []Item `json:"tiers"`
	Ports     []Item `json:"ports"`
	Countries []Item `json:"countries"`
	Networks  []Item `json:"networks"`
	// Offenders are the sources that have offended most often, and Remembered how
	// many are remembered. Banned is how many are banned, or would be.
	Offenders  []Source `json:"offenders"`
	Remembered int      `json:"remembered"`
	Banned     int      `json:"banned"`
	// Suspects are sources that may be banned by mistake, or may have been on one
	// of the days.
	Suspects []Source `json:"suspects"`
	// Expiring counts the bans by when they end. Next are the bans that end within
	// a day, those of the highest tiers first.
	Expiring []Item   `json:"expiring"`
	Next     []Source `json:"next"`

	countries map[string]uint64
	week      [7][24]uint64 // packets dropped, or that would be, by hour of the week, in the last two weeks
	zone      *time.Location
}

// Day is what happened on a day.
type Day struct {
	Date string `json:"date"`
	Sum
	Sources uint64 `json:"sources"` // that offended on it; no sum, because they recur

	at, end time.Time // end is the last day, if it is the sum of several
}

// Sum is what happened on one day, or on all of them.
type Sum struct {
	// Dropped counts all packets, those that completed an offence included.
	Dropped uint64 `json:"dropped"`
	Bytes   uint64 `json:"dropped_bytes"`
	Bans    uint64 `json:"bans"` // that the packet path made
	// WouldDrop and WouldBan are the same while the table observed.
	WouldDrop uint64 `json:"would_drop"`
	WouldBan  uint64 `json:"would_ban"`

	New      uint64 `json:"new_sources"`
	Offences uint64 `json:"offences"` // as they were noted, those of new sources included
	// Packets are those of all counters of the table.
	Packets  map[string]uint64 `json:"packets"`
	Observed bool              `json:"observed,omitempty"`
}

// Returning returns how many offences were by sources that had offended before.
func (s *Sum) Returning() uint64 { return s.Offences - min(s.New, s.Offences) }

// grouped returns at most n sums of equally many days each, the last of fewer,
// and how many that is.
func grouped(days []Day, n int) (sums []Day, each int) {
	each = (len(days) + n - 1) / n
	for some := range slices.Chunk(days, each) {
		sum := some[0]
		sum.end = some[len(some)-1].at
		for _, d := range some[1:] {
			sum.Dropped, sum.WouldDrop = sum.Dropped+d.Dropped, sum.WouldDrop+d.WouldDrop
			sum.New, sum.Offences = sum.New+d.New, sum.Offences+d.Offences
		}
		sums = append(sums, sum)
	}
	return sums, each
}

// Item is something that was counted.
type Item struct {
	Name  string `json:"name"`
	What  string `json:"what,omitempty"` // the name in words
	Count uint64 `json:"count"`
}

// Source is an offender.
type Source struct {
	Source   string    `json:"source"`
	Offences int       `json:"offences,omitempty"`
	Step     int       `json:"tier,omitempty"`
	Cause    string    `json:"cause,omitempty"`
	Port     string    `json:"port,omitempty"`
	Last     time.Time `json:"last_offence,omitzero"`
	Until    time.Time `json:"until,omitzero"` // when the ban ends
	Forever  bool      `json:"forever,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why it is a suspect
	geo.Place
}

const (
	maxPorts, maxPlaces, maxSources = 10, 8, 10
	week                            = 7 * 24 * time.Hour
)

// Input is what a report is made of.
type Input struct {
	Host  string
	Mode  string
	Days  int
	Clock book.Clock
	Stats *stats.Stats
	Rows  *book.Book // as the table has them
	// Locate returns where a source is, and Suspect why it may be banned by
	// mistake, or "". Either may be nil.
	Locate  func(netip.Prefix) geo.Place
	Suspect func(netip.Prefix) string
}

// New makes a report.
func New(in Input) *Report {
	now := in.Clock.Wall
	r := &Report{Version: 1, Host: in.Host, Made: now.UTC().Truncate(time.Second), Mode: in.Mode, zone: now.Location()}
	var sum stats.Count
	for _, d := range in.Stats.Days(in.Days, now) {
		sum.Add(&d.Count)
		r.Days = append(r.Days, Day{Date: d.Date.Format(time.DateOnly), Sum: newSum(&d.Count), Sources: d.Sources, at: d.Date})
	}
	r.Total = newSum(&sum)
	if since := in.Stats.Since(); !since.IsZero() && since.After(r.Days[0].at) {
		r.Since = since.UTC()
	}
	causes, steps := make(map[string]uint64), make(map[string]uint64)
	for made, n := range sum.Bans {
		cause, step, _ := strings.Cut(made, " ")
		if causes[cause] += n; step != "" {
			steps[step] += n
		}
	}
	r.Causes, r.Steps = top(causes, len(causes)), top(steps, len(steps))
	slices.SortFunc(r.Steps, func(a, b Item) int { return cmp.Compare(a.Name, b.Name) })
	r.Ports, r.Countries, r.Networks = top(sum.Ports, maxPorts), top(sum.Countries, maxPlaces), top(sum.Networks, maxPlaces)
	for i := range r.Ports {
		r.Ports[i].What = services[r.Ports[i].Name]
	}
	for i := range r.Countries {
		r.Countries[i].What = country(r.Countries[i].Name)
	}
	for i := range r.Networks {
		r.Networks[i].What = in.Stats.NetworkName(r.Networks[i].Name)
	}
	r.countries = sum.Countries
	for at, c := range in.Stats.Hours {
		if now.Sub(at) < 2*week {
			at = at.In(r.zone)
			for name, n := range c.Packets {
				if ruleset.CountsDrops(name) {
					r.week[(at.Weekday()+6)%7][at.Hour()] += n
				}
			}
		}
	}
	r.addSources(&in)
	r.addUsers(&in, sum.Users)
	return r
}

func newSum(c *stats.Count) Sum {
	s := Sum{Bytes: c.Bytes - min(c.PassedBytes, c.Bytes), New: c.New, Packets: c.Packets, Observed: c.Observed}
	apart := func(counter string) (did, would uint64) {
		all := c.Packets[counter]
		would = min(c.Passed[counter], all)
		return all - would, would
	}
	for name := range c.Packets {
		if ruleset.CountsDrops(name) {
			did, would := apart(name)
			s.Dropped, s.WouldDrop = s.Dropped+did, s.WouldDrop+would
		}
	}
	if s.Packets == nil {
		s.Packets = map[string]uint64{} // in JSON as well
	}
	s.Bans, s.WouldBan = apart(ruleset.CounterBanned)
	for _, n := range c.Ports {
		s.Offences += n
	}
	return s
}

// top returns the n largest counts, and the rest as one item.
func top(m map[string]uint64, n int) []Item {
	items, rest := make([]Item, 0, len(m)), m[stats.Other]
	for name, count := range m {
		if name != stats.Other {
			items = append(items, Item{Name: name, Count: count})
		}
	}
	slices.SortFunc(items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	for ; len(items) > n; items = items[:len(items)-1] {
		rest += items[len(items)-1].Count
	}
	if rest > 0 {
		items = append(items, Item{Name: stats.Other, Count: rest})
	}
	return items
}

// addSources fills in what is known about individual sources.
func (r *Report) addSources(in *Input) {
	now := in.Clock.Boot
	ends := []struct {
		within time.Duration
		name   string
		count  uint64
	}{{time.Hour, "within an hour", 0}, {24 * time.Hour, "within a day", 0}, {week, "within a week", 0}, {1 << 62, "later", 0}}
	forever := uint64(0)
	var all, suspects, next []book.Row
	for row := range in.Rows.Rows() {
		if row.Offences > 0 && row.StepAt(now) > 0 {
			r.Remembered++
			all = append(all, row)
		}
		if !row.BannedAt(now) {
			continue
		}
		r.Banned++
		if row.Timeout == 0 {
			forever++
		} else {
			for i := range ends {
				if row.Remaining(now) <= ends[i].within {
					ends[i].count++
					break
				}
			}
			if row.Remaining(now) <= 24*time.Hour {
				next = append(next, row)
			}
		}
		if in.Suspect != nil && !row.ByHand && in.Suspect(row.Source) != "" {
			suspects = append(suspects, row)
		}
	}
	for _, e := range ends {
		r.Expiring = append(r.Expiring, Item{Name: e.name, Count: e.count})
	}
	r.Expiring = append(r.Expiring, Item{Name: "never", Count: forever})
	worst := func(a, b book.Row) int {
		return cmp.Or(cmp.Compare(b.Offences, a.Offences), cmp.Compare(b.Step, a.Step), cmp.Compare(b.Last, a.Last), text.ComparePrefixes(a.Source, b.Source))
	}
	r.Offenders = in.sources(all, worst, maxSources)
	r.Suspects = in.sources(suspects, worst, maxSources)
	r.Next = in.sources(next, func(a, b book.Row) int {
		return cmp.Or(cmp.Compare(b.Step, a.Step), cmp.Compare(a.Until, b.Until), text.ComparePrefixes(a.Source, b.Source))
	}, 5)
}

// addUsers adds the sources that used a service when they were banned to those
// that are suspects now, unless they have been allowed since.
func (r *Report) addUsers(in *Input, users map[string]uint64) {
	for _, u := range top(users, maxSources) {
		prefix, port, _ := strings.Cut(u.Name, " ")
		p, err := netip.ParsePrefix(prefix)
		known := func(s Source) bool { return s.Source == text.Prefix(p) }
		if err != nil || len(r.Suspects) == maxSources || slices.ContainsFunc(r.Suspects, known) || in.Rows.Allows(p, in.Clock.Boot) {
			continue
		}
		row, _ := in.Rows.Get(p)
		row.Source = p
		s := in.sources([]book.Row{row}, nil, 1)[0]
		s.Reason = "used " + text.Printable(port)
		r.Suspects = append(r.Suspects, s)
	}
}

// sources returns the first n of some rows.
func (in *Input) sources(rows []book.Row, by func(a, b book.Row) int, n int) []Source {
	slices.SortFunc(rows, by)
	out := make([]Source, 0, n)
	for _, row := range rows[:min(n, len(rows))] {
		s := Source{
			Source: text.Prefix(row.Source), Offences: row.Offences, Step: row.StepAt(in.Clock.Boot), Cause: row.Cause.String(),
			Port: text.Port(row.Proto, row.Port), Forever: row.Banned && row.Timeout == 0,
		}
		if row.Last != 0 {
			s.Last = in.Clock.Time(row.Last).UTC().Truncate(time.Second)
		}
		if row.BannedAt(in.Clock.Boot) && row.Timeout > 0 {
			s.Until = in.Clock.Time(row.Until).UTC().Truncate(time.Second)
		}
		if in.Suspect != nil {
			s.Reason = in.Suspect(row.Source)
		}
		if in.Locate != nil {
			s.Place = in.Locate(row.Source)
		}
		out = append(out, s)
	}
	return out
}

// Unbanned says how many offences led to no ban, and why; nothing if all did.
func (r *Report) Unbanned() (lines []string) {
	for _, c := range []struct{ counter, why string }{
		{ruleset.CounterFull, "a set was full"}, {ruleset.CounterHeldBack, "too many at a time"},
	} {
		if n := r.Total.Packets[c.counter]; n > 0 {
			lines = append(lines, number(n)+" offences without a ban: "+c.why)
		}
	}
	return lines
}

// Where returns in a few words where a source is.
func (s Source) Where() string { return strings.TrimSpace(s.Country + " " + s.Network) }

// period returns the days of the report.
func (r *Report) period() string {
	first, last := r.Days[0].at, r.Days[len(r.Days)-1].at
	layout := "2 Jan"
	if first.Year() != last.Year() {
		layout = "2 Jan 2006"
	}
	if len(r.Days) == 1 {
		return last.Format("2 Jan 2006")
	}
	return first.Format(layout) + " to " + last.Format("2 Jan 2006")
}

// headline returns the most important sums.
func (r *Report) headline() []Item {
	items := []Item{{What: "packets dropped", Count: r.Total.Dropped}, {What: "bans made", Count: r.Total.Bans}}
	if r.Total.Observed {
		items = append(items, Item{What: "packets that would be dropped", Count: r.Total.WouldDrop},
			Item{What: "bans that would be made", Count: r.Total.WouldBan})
	}
	return append(items, Item{What: "new offenders", Count: r.Total.New},
		Item{What: "offences by returning ones", Count: r.Total.Returning()})
}

// now says what is in force at present.
func (r *Report) now() string {
	switch r.Mode {
	case ruleset.Mode(false):
		return fmt.Sprintf("in force now: %s; remembered: %s", text.Plural(r.Banned, "ban"), text.Plural(r.Remembered, "offender"))
	case ruleset.Mode(true):
		return fmt.Sprintf("observing, nothing is dropped: %s would be banned", text.Plural(r.Banned, "source"))
	}
	return "no table: nothing is dropped; remembered: " + text.Plural(r.Remembered, "offender")
}

// number writes a number as people read it: 1,234,567.
func number(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short writes a number in at most four characters: "999", "1.2k", "345k".
func short(n uint64) string {
	unit, v := "", float64(n)
	for _, u := range []string{"k", "M", "G", "T", "P", "E"} {
		if v < 999.5 {
			break
		}
		v /= 1000
		unit = u
	}
	if unit != "" && v < 9.95 {
		return strconv.FormatFloat(v, 'f', 1, 64) + unit
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + unit
}

// services are what commonly listens on the ports that scanners ask for most.
var services = map[string]string{
	"tcp/21": "ftp", "tcp/22": "ssh", "tcp/23": "telnet", "tcp/25": "smtp", "tcp/53": "dns", "tcp/81": "http, cameras", "tcp/102": "s7, industrial",
	"tcp/110": "pop3", "tcp/111": "rpcbind", "tcp/135": "msrpc", "tcp/139": "netbios", "tcp/143": "imap", "tcp/389": "ldap", "tcp/445": "smb",
	"tcp/502": "modbus", "tcp/873": "rsync", "tcp/1080": "socks", "tcp/1433": "mssql", "tcp/1521": "oracle", "tcp/1723": "pptp",
	"tcp/1883": "mqtt", "tcp/2222": "ssh", "tcp/2323": "telnet", "tcp/2375": "docker", "tcp/2376": "docker", "tcp/3128": "http proxy",
	"tcp/3306": "mysql", "tcp/3389": "rdp", "tcp/4444": "metasploit", "tcp/5038": "asterisk", "tcp/5060": "sip", "tcp/5432": "postgres",
	"tcp/5555": "adb", "tcp/5900": "vnc", "tcp/5901": "vnc", "tcp/5985": "winrm", "tcp/5986": "winrm", "tcp/6379": "redis", "tcp/7547": "tr-069",
	"tcp/8022": "ssh", "tcp/8291": "mikrotik", "tcp/8545": "ethereum", "tcp/8728": "mikrotik", "tcp/9200": "elasticsearch",
	"tcp/11211": "memcached", "tcp/23023": "telnet", "tcp/27017": "mongodb", "tcp/60001": "http, cameras",
	"udp/53": "dns", "udp/123": "ntp", "udp/161": "snmp", "udp/1900": "ssdp", "udp/5060": "sip", "udp/11211": "memcached",
}
