// Package stats counts what the table and its bans have done, by hour and by
// day, and keeps the counts for 400 days in a file of their own beside the
// book.
//
// Packets are those of the table's counters. The last reading of the counters,
// and the table it was taken from, are kept with the counts, in the same line
// of the file. So the growth of a counter is added exactly once, whoever reads
// it next, even after a kill or a reboot.
package stats

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

const (
	keepHours = 14 * 24 // how long hours are kept apart
	keepDays  = 400
	// maxNamed is how many names of each kind an hour or a day keeps: ports,
	// countries, networks. The rest is summed as Other. An hour that has not ended
	// keeps more, because the most frequent are not known yet.
	maxNamed, maxRunning = 12, 32
	maxUsers             = 8  // whose names are long
	maxName              = 40 // characters of the name of a network
)

// Other is the name under which the rest is counted.
const Other = "other"

// Count is what happened in an hour, on a day, or in total.
type Count struct {
	// Packets are those of the table's counters, and Bytes those of the packets
	// that were dropped because their source is banned. Passed and PassedBytes
	// are the part of them that was counted while the table only observed.
	Packets     map[string]uint64 `json:"packets,omitempty"`
	Bytes       uint64            `json:"bytes,omitempty"`
	Passed      map[string]uint64 `json:"passed,omitempty"`
	PassedBytes uint64            `json:"passed_bytes,omitempty"`
	// Bans counts those that were noted as they were made, by cause and step:
	// "trap 1". Ports, Countries and Networks count the offences among them:
	// "tcp/23", "DE", "AS3320".
	Bans      map[string]uint64 `json:"bans,omitempty"`
	Ports     map[string]uint64 `json:"ports,omitempty"`
	Countries map[string]uint64 `json:"countries,omitempty"`
	Networks  map[string]uint64 `json:"networks,omitempty"`
	// Users are the sources among them that were connected to a service of this
	// host when they were banned, perhaps by mistake: "203.0.113.7/32 tcp/22".
	Users map[string]uint64 `json:"users,omitempty"`
	// Sources are those that offended, each counted once. DaySources are those
	// that offended for the first time that day, so that hours add up to a day,
	// and New those that offended for the first time ever, as far as is known.
	Sources    uint64 `json:"sources,omitempty"`
	DaySources uint64 `json:"day_sources,omitempty"`
	New        uint64 `json:"new,omitempty"`
	// Observed reports that the table was in observe mode at some time.
	Observed bool `json:"observed,omitempty"`

	// weight is added to the count of a name when names compete for room.
	weight [4]map[string]uint64
}

// named returns the counts by name that are bounded.
func (c *Count) named() [4]*map[string]uint64 {
	return [...]*map[string]uint64{&c.Ports, &c.Countries, &c.Networks, &c.Users}
}

// Add adds the counts of another time.
func (c *Count) Add(d *Count) {
	sum(&c.Packets, d.Packets)
	sum(&c.Passed, d.Passed)
	sum(&c.Bans, d.Bans)
	from := *d
	for i, m := range c.named() {
		sum(m, *from.named()[i])
	}
	c.Bytes += d.Bytes
	c.PassedBytes += d.PassedBytes
	c.Sources += d.Sources
	c.DaySources += d.DaySources
	c.New += d.New
	c.Observed = c.Observed || d.Observed
}

func sum(to *map[string]uint64, from map[string]uint64) {
	for name, n := range from {
		bump(to, name, n)
	}
}

func bump(m *map[string]uint64, name string, n uint64) {
	if *m == nil {
		*m = make(map[string]uint64)
	}
	(*m)[name] += n
}

// bumpNamed counts something by name with the Space-Saving algorithm: a new
// name replaces the least frequent one and inherits its weight, so that a
// frequent name stays, however many others there are. The count itself is not
// inherited: that of the replaced name is added to Other.
func (c *Count) bumpNamed(i int, name string) {
	m, weight := c.named()[i], &c.weight[i]
	if _, ok := (*m)[name]; !ok && len(*m) >= maxRunning {
		least := leastOf(*m, *weight)
		w := (*m)[least] + (*weight)[least]
		(*m)[Other] += (*m)[least]
		delete(*m, least)
		delete(*weight, least)
		if name != Other {
			bump(weight, name, w)
		}
	}
	bump(m, name, 1)
}

// leastOf returns the name with the lowest count, its weight included.
func leastOf(m, weight map[string]uint64) (least string) {
	lowest := uint64(0)
	for name, n := range m {
		n += weight[name]
		if name != Other && (least == "" || n < lowest || n == lowest && name > least) {
			least, lowest = name, n
		}
	}
	return least
}

// trim keeps the most frequent names.
func (c *Count) trim(limit int) {
	for i, m := range c.named() {
		keep := limit
		if m == &c.Users {
			keep = min(limit, maxUsers)
		}
		for len(*m) > keep {
			least := leastOf(*m, nil)
			(*m)[Other] += (*m)[least]
			delete(*m, least)
		}
		c.weight[i] = nil
	}
}

// Table is a reading of the counters of a table.
type Table struct {
	book.Origin
	Counters map[string]ruleset.Counter `json:"counters"`
}

// TableOf returns the counters of a table that was read just now.
func TableOf(s *ruleset.State) Table {
	t := Table{Origin: book.Of(s), Counters: make(map[string]ruleset.Counter)}
	for _, name := range ruleset.Counters() { // others may have added more, of any name
		if c, ok := s.Counters[name]; ok {
			t.Counters[name] = c
		}
	}
	return t
}

// Offence is a ban that was made.
type Offence struct {
	At    time.Time
	Cause ruleset.Cause
	Step  int // of the ladder; 0 if the ban is not the ladder's, and so no offence
	Proto uint8
	Port  uint16
	// First reports that no earlier offence of the source is on record. Before is
	// the time of the last earlier one, zero if that is not known.
	First     bool
	Before    time.Time
	Observed  bool
	geo.Place // of the source
}

// Stats are the counts. They are not safe for concurrent use.
type Stats struct {
	hours map[Hour]*Count
	days  map[string]*Count // by date
	names map[string]string // of networks
	named map[string]string // those that are not in the file yet
	table Table             // the last reading
	zone  *time.Location    // of the days

	changed map[Hour]bool // since they were written
	store   *store        // nil: in memory only
}

// New returns counts that are kept in memory only. Days are those of zone.
func New(zone *time.Location) *Stats {
	return &Stats{
		hours: make(map[Hour]*Count), days: make(map[string]*Count), names: make(map[string]string),
		named: make(map[string]string), zone: zone, changed: make(map[Hour]bool),
	}
}

// hour returns the count of an hour that is about to change.
func (s *Stats) hour(at time.Time) *Count {
	h := hourOf(at)
	if s.hours[h] == nil {
		s.hours[h] = new(Count)
	}
	s.changed[h] = true
	return s.hours[h]
}

// AddTable adds the growth of the counters of a table since they were last
// added. fresh says that portmon has created this table since then, so that its
// counters began at 0. The counters of any other new table may be older than
// the table, as those of a saved ruleset are, and are counted from now on.
// Growth up to a change of mode belongs to the mode before. It reports whether
// the table is a new one.
func (s *Stats) AddTable(t Table, fresh bool, now time.Time) (first bool) {
	if t.Table == 0 {
		return false // there is none
	}
	same := t.SameTable(s.table.Origin)
	if !same {
		s.hurry() // or it would be a new one again after a kill
	}
	if !same && !fresh {
		s.table = t
		s.hour(now)
		return true
	}
	grown := new(Count)
	for name, c := range t.Counters {
		before := s.table.Counters[name]
		if !same || c.Packets < before.Packets || c.Bytes < before.Bytes { // it was reset
			before = ruleset.Counter{}
			s.hurry() // or the reset might go unnoticed after a kill
		}
		if n := c.Packets - before.Packets; n > 0 {
			bump(&grown.Packets, name, n)
			if ruleset.CountsDrops(name) {
				grown.Bytes += c.Bytes - before.Bytes
			}
		}
	}
	if same && t.Observe == s.table.Observe && maps.Equal(t.Counters, s.table.Counters) {
		return false
	}
	if observed := same && s.table.Observe || !same && t.Observe; observed && grown.Packets != nil {
		grown.Observed, grown.Passed, grown.PassedBytes = true, grown.Packets, grown.Bytes
	}
	s.table = t
	s.hour(now).Add(grown)
	return !same
}

// hurry makes the next write come soon.
func (s *Stats) hurry() {
	if s.store != nil {
		s.store.urgent = true
	}
}

// AddOffence adds a ban that was made.
func (s *Stats) AddOffence(o Offence) {
	c := s.hour(o.At)
	made := o.Cause.String()
	if o.Step > 0 {
		made += " " + strconv.Itoa(o.Step)
	}
	bump(&c.Bans, cmp.Or(made, Other), 1)
	c.Observed = c.Observed || o.Observed
	s.hurry()
	if o.Step == 0 {
		return
	}
	c.bumpNamed(0, cmp.Or(text.Port(o.Proto, o.Port), Other))
	s.AddPlace(o.At, o.Place)
	if o.First {
		c.New++
	}
	if hourOf(o.Before) != hourOf(o.At) {
		c.Sources++
	}
	if s.date(hourOf(o.Before).Time()) != s.date(hourOf(o.At).Time()) { // the days that their hours count for
		c.DaySources++
	}
}

// AddPlace adds the place of an offence that was added without one.
func (s *Stats) AddPlace(at time.Time, p geo.Place) {
	if p.Country != "" {
		s.hour(at).bumpNamed(1, p.Country)
	}
	if p.ASN == 0 {
		return
	}
	network := "AS" + strconv.FormatUint(uint64(p.ASN), 10)
	s.hour(at).bumpNamed(2, network)
	if name := text.Shorten(p.Network, maxName); name != "" && s.names[network] != name {
		s.names[network], s.named[network] = name, name
	}
}

// AddUser adds that the source of an offence was connected to a service, by its
// TCP port; 0 if to none.
func (s *Stats) AddUser(at time.Time, source netip.Prefix, port uint16) {
	if port != 0 {
		s.hour(at).bumpNamed(3, source.String()+" "+text.Port(unix.IPPROTO_TCP, port))
	}
}

// NamePort adds the port of an earlier offence that was added without one.
func (s *Stats) NamePort(at time.Time, proto uint8, port uint16) {
	if c := s.hour(at); c.Ports[Other] > 0 {
		if c.Ports[Other]--; c.Ports[Other] == 0 {
			delete(c.Ports, Other)
		}
		c.bumpNamed(0, text.Port(proto, port))
	}
}

// NetworkName returns the name of a network; "" if none is known.
func (s *Stats) NetworkName(network string) string { return s.names[network] }

// Hour is an hour since 1970.
type Hour int64

func hourOf(t time.Time) Hour { return Hour(t.Unix() / 3600) }

// Time returns the beginning of an hour.
func (h Hour) Time() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

const hourLayout = "2006-01-02T15Z"

// MarshalText implements [encoding.TextMarshaler].
func (h Hour) MarshalText() ([]byte, error) { return h.Time().AppendFormat(nil, hourLayout), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hour) UnmarshalText(b []byte) error {
	t, err := time.Parse(hourLayout, string(b))
	*h = hourOf(t)
	return err
}

func (s *Stats) date(t time.Time) string { return t.In(s.zone).Format(time.DateOnly) }

// earliest is before any hour that was counted by a clock that is right.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// dateOf returns the day that an hour counts for, the one that it begins on. An
// hour of before there was portmon was counted by a clock that was not yet set
// after a boot: it counts for today.
func (s *Stats) dateOf(h Hour, now time.Time) string {
	if h.Time().Before(earliest) {
		return s.date(now)
	}
	return s.date(h.Time())
}

// fold sums up the days whose hours are no longer kept apart, and forgets all
// but the last days. It counts rather than compares them with now, so that a
// clock that is wrong for a while cannot make it forget.
func (s *Stats) fold(now time.Time) {
	hours := slices.Sorted(maps.Keys(s.hours))
	for i, h := range hours {
		if h > hourOf(now)-keepHours && len(hours)-i <= 2*keepHours {
			break
		}
		day := s.day(s.dateOf(h, now))
		day.Add(s.hours[h])
		day.Sources = day.DaySources
		delete(s.hours, h)
	}
	for h, c := range s.hours {
		if h < hourOf(now) {
			c.trim(maxNamed)
		}
	}
	dates := slices.Sorted(maps.Keys(s.days))
	for i, date := range dates {
		if len(dates)-i > keepDays {
			delete(s.days, date)
			continue
		}
		s.days[date].trim(maxNamed)
	}
}

func (s *Stats) day(date string) *Count {
	if s.days[date] == nil {
		s.days[date] = new(Count)
	}
	return s.days[date]
}

// Day is what happened on a day.
type Day struct {
	Date time.Time
	Count
}

// Days returns the counts of each of the last n days, the oldest first.
func (s *Stats) Days(n int, now time.Time) []Day {
	days := make([]Day, n)
	index := make(map[string]*Day)
	year, month, day := now.In(s.zone).Date()
	for i := range days {
		days[i].Date = text.ClockTime(time.Date(year, month, day-n+1+i, 0, 0, 0, 0, time.UTC), s.zone)
		index[s.date(days[i].Date)] = &days[i]
	}
	for date, c := range s.days {
		if d := index[date]; d != nil {
			d.Add(c)
		}
	}
	for h, c := range s.hours {
		if d := index[s.dateOf(h, now)]; d != nil {
			d.Add(c)
		}
	}
	for i := range days {
		days[i].Sources = days[i].DaySources
	}
	return days
}

// Hours yields the counts of each hour that is still kept apart, in no order.
func (s *Stats) Hours(yield func(time.Time, *Count) bool) {
	for h, c := range s.hours {
		if !yield(h.Time().In(s.zone), c) {
			return
		}
	}
}

// Since returns when counting began, as far as is kept; zero if it has not.
func (s *Stats) Since() (since time.Time) {
	for date := range s.days {
		t, _ := time.Parse(time.DateOnly, date) // no other names are read
		if t = text.ClockTime(t, s.zone); since.IsZero() || t.Before(since) {
			since = t
		}
	}
	for h := range s.hours {
		if t := h.Time().In(s.zone); since.IsZero() || t.Before(since) {
			since = t
		}
	}
	return since
}
