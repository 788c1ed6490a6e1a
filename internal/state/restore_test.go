package state

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portmon/portmon/internal/ledger"
)

var ladder = []time.Duration{8 * time.Hour, 3 * day, 30 * day}

// later returns the policy of a host with default settings, a time after the header was saved, as both clocks see it.
func later(d time.Duration, here Origin) Policy {
	return Policy{
		Now: ledger.Now{Wall: saved.Wall.Add(d), Mono: saved.Mono.Add(d)}, Here: here,
		Ladder: ladder, Forget: 30 * day, Prefix6: 64,
	}
}

// rebooted is the same host, later.
var rebooted = Origin{Machine: origin.Machine, Boot: "another", NetNS: 1, Table: 12}

// banned returns a ban of a single address.
func banned(tier int, timeout, left time.Duration) Record {
	return Record{Prefix: prefix("203.0.113.7/32"), Banned: true, Tier: tier, Timeout: timeout, Left: left}
}

func newLedger() *ledger.Ledger { return ledger.New(ledger.Config{Ladder: ladder, Forget: 30 * day}) }

func restore(t *testing.T, h Header, p Policy, l *ledger.Ledger, records ...Record) Restored {
	t.Helper()
	r, err := Restore(h, slices.Values(records), p, l)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// standing is a kernel that holds these bans, for ever or as long as it says.
func standing(bans map[string]time.Duration) func(netip.Prefix, int) (time.Duration, bool) {
	return func(p netip.Prefix, _ int) (time.Duration, bool) {
		left, ok := bans[p.String()]
		return left, ok
	}
}

// One ban, and all that can have happened to it.
func TestRestoreBan(t *testing.T) {
	const hour = time.Hour
	new13 := origin
	new13.Table = 13
	container := origin
	container.NetNS = 2
	forever := banned(0, 0, 0)
	by := func(r Record) Record { r.ByHand = true; return r }
	v6 := func(s string, tier int) Record {
		r := banned(tier, 8*hour, 5*hour)
		r.Prefix = prefix(s)
		return r
	}
	here := standing(map[string]time.Duration{"203.0.113.7/32": 2 * hour})
	always := standing(map[string]time.Duration{"203.0.113.7/32": 0})
	none := Restored{}
	one := func(tier int, timeout, left time.Duration) Restored {
		return Restored{Bans: []Ban{{Prefix: prefix("203.0.113.7/32"), Tier: tier, Timeout: timeout, Left: left}}}
	}
	tests := []struct {
		name   string
		record Record
		after  time.Duration
		here   Origin
		kernel func(netip.Prefix, int) (time.Duration, bool)
		want   Restored
	}{
		{"after a reload", banned(1, 8*hour, 5*hour), hour, new13, nil, one(1, 8*hour, 4*hour)},
		{"after a reboot", banned(3, 30*day, 5*day), day, rebooted, nil, one(3, 30*day, 4*day)},
		{"in a new container", banned(1, 8*hour, 5*hour), hour, container, nil, one(1, 8*hour, 4*hour)},
		{"where nothing is known", banned(1, 8*hour, 5*hour), hour, Origin{}, nil, one(1, 8*hour, 4*hour)},
		{"for ever", forever, 20 * 365 * day, rebooted, nil, one(0, 0, 0)},
		{"expired", banned(1, 8*hour, 5*hour), 5 * hour, new13, nil, Restored{Expired: 1}},
		{"almost expired", banned(1, 8*hour, 5*hour), 5*hour - 99*time.Millisecond, new13, nil, Restored{Expired: 1}},
		{"not quite expired", banned(1, 8*hour, 5*hour), 5*hour - 100*time.Millisecond, new13, nil, one(1, 8*hour, 100*time.Millisecond)},
		{"in whole milliseconds", banned(1, 8*hour, 5*hour), hour - 1, new13, nil, one(1, 8*hour, 4*hour)},

		{"lifted by hand", banned(1, 8*hour, 5*hour), hour, origin, nil, Restored{Lifted: 1}},
		{"for ever, lifted by hand", forever, hour, origin, nil, Restored{Lifted: 1}},
		{"expired in the same table", banned(1, 8*hour, 5*hour), 5*hour - time.Second + 1, origin, nil, Restored{Expired: 1}},
		{"still in force", banned(1, 8*hour, 3*hour), hour, origin, here, Restored{Standing: 1}},
		{"made shorter by hand", banned(1, 8*hour, 8*hour), hour, origin, here, Restored{Standing: 1}},
		{"made shorter by a new offence in a new table", banned(2, 3*day, 2*day), hour, new13, here, one(2, 3*day, 2*day-hour)},
		{"in force in a new table", banned(1, 8*hour, 3*hour), hour, new13, here, Restored{Standing: 1}},
		{"in force in a new table, a little shorter", banned(1, 8*hour, 3*hour+900*time.Millisecond), hour, new13, here, Restored{Standing: 1}},
		{"in force for ever", banned(1, 8*hour, 3*hour), hour, new13, always, Restored{Standing: 1}},
		{"both for ever", forever, hour, new13, always, Restored{Standing: 1}},
		{"for ever, in force for a while", forever, hour, new13, here, one(0, 0, 0)},

		{"longer than the ladder has it", banned(1, 30*day, 20*day), day, rebooted, nil, one(1, 11*day+8*hour, 8*hour)},
		{"the ladder became shorter", banned(4, 30*day, 20*day), day, rebooted, nil, one(3, 30*day, 19*day)},
		{"more left than it ever had", banned(2, 3*day, 300*day), 0, rebooted, nil, one(2, 3*day, 3*day)},
		{"by hand for longer than the ladder has it", by(banned(1, 30*day, 20*day)), day, rebooted, nil, Restored{Bans: []Ban{{prefix("203.0.113.7/32"), 1, 30 * day, 19 * day, true, ""}}}},
		{"a prefix for longer than the ladder has it", banned(0, 300*day, 200*day), day, rebooted, nil, one(0, 300*day, 199*day)},

		{"an IPv6 network", v6("2001:db8::/64", 2), 0, rebooted, nil, Restored{Bans: []Ban{{prefix("2001:db8::/64"), 2, 8 * hour, 5 * hour, false, ""}}}},
		{"networks became larger", v6("2001:db8::/72", 2), 0, rebooted, nil, Restored{Bans: []Ban{{prefix("2001:db8::/72"), 0, 8 * hour, 5 * hour, false, ""}}}},
		{"networks became smaller", v6("2001:db8::/56", 1), 0, rebooted, nil, Restored{Bans: []Ban{{prefix("2001:db8::/56"), 0, 8 * hour, 5 * hour, false, ""}}}},
		{"whitelisted", v6("2001:db8:1::/64", 2), 0, rebooted, nil, Restored{Whitelisted: 1}},
		{"whitelisted, in the same table", v6("2001:db8:1::/64", 2), 0, origin, nil, Restored{Whitelisted: 1}},
		{"no ban", Record{Prefix: prefix("203.0.113.7/32"), Left: -hour, Offences: 1, Age: 9 * hour}, 0, rebooted, nil, Restored{Offenders: 1}},
		{"whitelisted, and no ban", Record{Prefix: prefix("2001:db8:1::/64"), Left: -hour, Offences: 1, Age: 9 * hour}, 0, rebooted, nil, none},
	}
	for _, tt := range tests {
		p := later(tt.after, tt.here)
		p.Standing = tt.kernel
		p.Whitelisted = func(p netip.Prefix) bool { return prefix("2001:db8:1::/48").Contains(p.Addr()) }
		got := restore(t, header, p, nil, tt.record)
		if d := diff(tt.want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, d)
		}
	}
}

// Of a ban that is in force in the same table, it is told what was saved of it, though the ladder has other times now.
func TestRestoreKept(t *testing.T) {
	const hour = time.Hour
	short := banned(1, 30*hour, 20*hour)
	tests := map[string]struct {
		record Record
		here   Origin
		left   time.Duration // in the kernel
		want   []Ban
	}{
		"in force":                {short, origin, 19 * hour, []Ban{{short.Prefix, 1, 30 * hour, 19 * hour, false, ""}}},
		"by the ladder of then":   {banned(4, 90*day, 80*day), origin, 80*day - hour, []Ban{{short.Prefix, 4, 90 * day, 80*day - hour, false, ""}}},
		"lifted":                  {short, origin, -1, nil},
		"over":                    {banned(1, 8*hour, hour), origin, hour, nil},
		"in a new table":          {short, rebooted, 19 * hour, nil},
		"a prefix":                {banned(0, 30*hour, 20*hour), origin, 19 * hour, nil},
		"for ever":                {banned(0, 0, 0), origin, 0, nil},
		"no ban, but an offender": {Record{Prefix: short.Prefix, Left: -hour, Offences: 1, Age: 9 * hour}, origin, -1, nil},
	}
	for name, tt := range tests {
		var got []Ban
		p := later(hour, tt.here)
		p.Kept = func(b Ban) { got = append(got, b) }
		p.Standing = func(netip.Prefix, int) (time.Duration, bool) { return max(0, tt.left), tt.left >= 0 }
		restore(t, header, p, nil, tt.record)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}

// How much time has passed is told by the monotonic clock within a boot, by the wall clock after it, and by none if that went back.
func TestRestoreTime(t *testing.T) {
	tests := []struct {
		name       string
		wall, mono time.Duration // since the state was saved
		here       Origin
		left       time.Duration // of 5 hours; 0: expired
		behind     time.Duration
	}{
		{"the same boot", time.Hour, time.Hour, Origin{Boot: origin.Boot}, 4 * time.Hour, 0},
		{"the clock was set back", -10 * 365 * day, time.Hour, Origin{Boot: origin.Boot}, 4 * time.Hour, 0},
		{"the clock was set forward", 10 * 365 * day, time.Hour, Origin{Boot: origin.Boot}, 4 * time.Hour, 0},
		{"a reboot", time.Hour, -saved.Mono.Sub(0), rebooted, 4 * time.Hour, 0},
		{"a reboot after a long time", day, day, rebooted, 0, 0},
		{"a reboot without a battery", -10 * 365 * day, day, rebooted, 5 * time.Hour, 10 * 365 * day},
		{"a snapshot from before", -time.Hour, -time.Hour, Origin{Boot: origin.Boot}, 5 * time.Hour, time.Hour},
	}
	for _, tt := range tests {
		p := later(0, tt.here)
		p.Now = ledger.Now{Wall: saved.Wall.Add(tt.wall), Mono: saved.Mono.Add(tt.mono)}
		l := newLedger()
		rec := banned(1, 8*time.Hour, 5*time.Hour)
		rec.Offences, rec.Age = 1, 3*time.Hour
		r := restore(t, header, p, l, rec)
		var left time.Duration
		if len(r.Bans) == 1 {
			left = r.Bans[0].Left
		}
		if left != tt.left || r.ClockBehind != tt.behind {
			t.Errorf("%s: %v left, clock %v behind: want %v and %v", tt.name, left, r.ClockBehind, tt.left, tt.behind)
		}
		// The ban that is put back is the offence that the ledger knows.
		if tt.left > 0 {
			from := p.Now.Mono.Add(r.Bans[0].Left - r.Bans[0].Timeout)
			v := l.Seen(ledger.Ban{Source: rec.Prefix, Tier: 1, From: from, Until: p.Now.Mono.Add(left)}, p.Now.Mono)
			if v.Counted || v.Offences != 1 {
				t.Errorf("%s: found in a dump it is another offence: %+v", tt.name, v)
			}
		}
	}
}

// A ban that is cut to what the ladder allows does not look like a new offence.
func TestRestoreCut(t *testing.T) {
	rec := banned(2, 30*day, 20*day)
	rec.Offences, rec.Age = 2, 10*day
	l := newLedger()
	p := later(day, rebooted)
	r := restore(t, header, p, l, rec)
	if b := r.Bans[0]; b.Left != 3*day || b.Timeout-b.Left != 11*day {
		t.Errorf("restored as %+v", b)
	}
	now := p.Now.Mono
	v := l.Seen(ledger.Ban{Source: rec.Prefix, Tier: 2, From: now.Add(-11 * day), Until: now.Add(3 * day)}, now)
	if v.Counted || v.Offences != 2 || v.Edit {
		t.Errorf("found in a dump: %+v", v)
	}
	if known, _ := l.Lookup(rec.Prefix, now); known.End != now.Add(3*day) {
		t.Errorf("the ledger has %+v", known)
	}
}

func TestRestoreOffenders(t *testing.T) {
	now := saved.Mono.Add(day)
	l := newLedger()
	r := restore(t, header, later(day, rebooted), l, sample...)
	want := []ledger.Record{
		{Source: sample[0].Prefix, Offences: 1, Tier: 1, Last: saved.Mono.Add(-1500 * time.Millisecond), End: saved.Mono.Add(sample[0].Left), Proto: 6, Port: 23},
		{Source: sample[1].Prefix, Offences: 7, Tier: 3, Last: saved.Mono.Add(-day), End: saved.Mono.Add(29 * day)},
		{Source: sample[2].Prefix, Offences: 2, Tier: 2, Last: saved.Mono.Add(-6 * day), End: saved.Mono.Add(-3 * day), Proto: 17, Port: 5060},
		{Source: sample[5].Prefix, Offences: 2, Tier: 2, Last: saved.Mono.Add(-2 * day), End: saved.Mono.Add(day), Proto: 132, Port: 7},
	}
	if d := diff(want, slices.Collect(l.All(now))); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if got, want := r.String(), "2 bans to put back, 4 offenders, 3 bans expired"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// Those who were free and quiet for too long are forgotten.
	l = newLedger()
	r = restore(t, header, later(27*day+1, rebooted), l, sample...)
	if got, want := r.String(), "2 bans to put back, 3 offenders, 3 bans expired, 1 offenders forgotten"; got != want || l.Len() != 3 {
		t.Errorf("%s, want %s; %d in the ledger", got, want, l.Len())
	}
	// Those who were unbanned by hand begin again.
	l = newLedger()
	r = restore(t, header, later(time.Minute, origin), l, sample...)
	if got, want := r.String(), "0 bans to put back, 1 offenders, 5 bans lifted by hand"; got != want || l.Len() != 1 {
		t.Errorf("%s, want %s; %d in the ledger", got, want, l.Len())
	}
}

// A ban by hand, in force or put back, is no offence when it is found in a dump.
func TestRestoreByHand(t *testing.T) {
	rec := sample[4]
	rec.Offences, rec.Age = 1, 20*day
	for _, origin := range []Origin{origin, rebooted} {
		p := later(time.Minute, origin)
		p.Standing = standing(map[string]time.Duration{rec.Prefix.String(): rec.Left - time.Minute})
		if origin == rebooted {
			p.Standing = nil
		}
		l := newLedger()
		r := restore(t, header, p, l, rec)
		if len(r.Bans)+r.Standing != 1 {
			t.Fatalf("restored: %s", r)
		}
		now := p.Now.Mono
		left := rec.Left - time.Minute
		v := l.Seen(ledger.Ban{Source: rec.Prefix, Tier: 1, From: now.Add(left - rec.Timeout), Until: now.Add(left)}, now)
		if v.Counted || v.Offences != 1 {
			t.Errorf("found in a dump: %+v", v)
		}
	}
}

func TestRestoreOtherMachine(t *testing.T) {
	other := rebooted
	other.Machine = "fedc"
	l := newLedger()
	r, err := Restore(header, slices.Values(sample), later(time.Minute, other), l)
	var machine *MachineError
	if !errors.As(err, &machine) || err.Error() != "saved on another machine ("+origin.Machine+", this is fedc)" || len(r.Bans) > 0 || l.Len() > 0 {
		t.Errorf("%s, %v, %d in the ledger", r, err, l.Len())
	}
	p := later(time.Minute, other)
	p.Adopt = true
	if r := restore(t, header, p, l, sample...); len(r.Bans) != 5 || r.Offenders != 4 {
		t.Errorf("forced: %s", r)
	}
	// A host without a machine id, or a file without it, is no reason.
	if r := restore(t, header, later(time.Minute, Origin{}), nil, sample...); len(r.Bans) != 5 {
		t.Errorf("without a machine id: %s", r)
	}
}

// Of several lines about a prefix, the longest ban and the most offences are taken, in whatever order they come.
func TestRestoreDuplicates(t *testing.T) {
	line := func(left time.Duration, offences int) Record {
		r := banned(1, 8*time.Hour, left)
		r.Offences, r.Age = offences, time.Hour
		return r
	}
	forever := banned(0, 0, 0)
	lines := []Record{line(time.Hour, 3), line(3*time.Hour, 1), line(2*time.Hour, 2)}
	rng := random(t)
	for range 20 {
		rng.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		l := newLedger()
		r := restore(t, header, later(0, rebooted), l, lines...)
		rec, _ := l.Lookup(forever.Prefix, saved.Mono)
		if len(r.Bans) != 1 || r.Bans[0].Left != 3*time.Hour || rec.Offences != 3 || l.Len() != 1 {
			t.Fatalf("%+v: %+v, %+v", lines, r.Bans, rec)
		}
		r = restore(t, header, later(0, rebooted), nil, lines[0], forever, lines[1])
		if len(r.Bans) != 1 || r.Bans[0].Timeout != 0 {
			t.Fatalf("with one for ever: %+v", r.Bans)
		}
	}
}

// The sets of prefixes take no overlaps.
func TestRestoreOverlaps(t *testing.T) {
	net := func(s string, left time.Duration) Record {
		r := Record{Prefix: prefix(s), Banned: true, Left: left, ByHand: true}
		if left > 0 {
			r.Timeout = 2 * left
		}
		return r
	}
	records := []Record{
		net("10.0.0.0/8", time.Hour), net("10.0.0.0/16", time.Minute), net("10.1.0.0/16", 3*time.Hour), net("10.1.2.0/24", 2*time.Hour), net("11.0.0.0/8", time.Hour),
		net("2001:db8::/32", 0), net("2001:db8:1::/48", time.Hour), net("2001:db9::/32", time.Hour), net("0.0.0.0/32", time.Hour),
		banned(1, 8*time.Hour, time.Hour), net("203.0.113.0/24", 2*time.Hour), // a single address in its own set is no overlap
	}
	want := map[string]time.Duration{
		"10.0.0.0/8": 3 * time.Hour, "11.0.0.0/8": time.Hour, "2001:db8::/32": 0, "2001:db9::/32": time.Hour, "0.0.0.0/32": time.Hour,
		"203.0.113.7/32": time.Hour, "203.0.113.0/24": 2 * time.Hour,
	}
	rng := random(t)
	for range 20 {
		rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		got := make(map[string]time.Duration)
		for _, b := range restore(t, header, later(0, rebooted), nil, records...).Bans {
			got[b.Prefix.String()] = b.Left
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("(-want +got)\n%s", d)
		}
	}
}

// A single address in its own set is no overlap with a prefix around it, though it stands right before it.
func TestRestoreOverlapOfTiers(t *testing.T) {
	records := []Record{banned(1, 8*time.Hour, 3*time.Hour)}
	for _, s := range []string{"203.0.113.0/24", "203.0.114.0/24"} {
		records = append(records, Record{Prefix: prefix(s), Banned: true, Timeout: time.Hour, Left: time.Hour})
	}
	if r := restore(t, header, later(0, rebooted), nil, records...); len(r.Bans) != 3 || r.Bans[1].Left != time.Hour {
		t.Errorf("%+v", r.Bans)
	}
}

// In the same table, a ban found in a lower tier than was saved was not lifted: its offences count, and a dump asks for the edit again.
func TestRestoreLowerTier(t *testing.T) {
	rec := banned(2, 3*day, 3*day-time.Hour)
	rec.Offences, rec.Age = 2, time.Hour
	for _, here := range []Origin{origin, rebooted} {
		p := later(0, here)
		p.Standing = func(_ netip.Prefix, tier int) (time.Duration, bool) { return 7 * time.Hour, tier <= 1 }
		l := newLedger()
		r := restore(t, header, p, l, rec)
		if back := here == rebooted; r.Lifted != 0 || r.Offenders != 1 || len(r.Bans) == 1 != back || r.Standing == 1 == back {
			t.Errorf("%s", r)
		}
		now := p.Now.Mono
		v := l.Seen(ledger.Ban{Source: rec.Prefix, Tier: 1, From: now.Add(-time.Hour), Until: now.Add(7 * time.Hour)}, now)
		if !v.Edit || v.Tier != 2 || v.Left != 3*day-time.Hour {
			t.Errorf("found in a dump: %+v", v)
		}
	}
}

// A ban that nobody knows to be by hand is an offence when it is found in a dump, as it is without a file.
func TestRestoreUnknown(t *testing.T) {
	l := newLedger()
	p := later(0, rebooted)
	b := restore(t, header, p, l, banned(1, 8*time.Hour, 5*time.Hour)).Bans[0]
	now := p.Now.Mono
	if v := l.Seen(ledger.Ban{Source: b.Prefix, Tier: 1, From: now.Add(b.Left - b.Timeout), Until: now.Add(b.Left)}, now); v.Offences != 1 {
		t.Errorf("found in a dump: %+v", v)
	}
}

// Whoever is banned for ever is not forgotten.
func TestRestoreForEver(t *testing.T) {
	l := newLedger()
	rec := Record{Prefix: prefix("203.0.113.7/32"), Banned: true, Offences: 2, Age: 300 * day}
	p := later(time.Hour, rebooted)
	r := restore(t, header, p, l, rec)
	if known, ok := l.Lookup(rec.Prefix, p.Now.Mono.Add(365*day)); !ok || known.Offences != 2 || r.Offenders != 1 {
		t.Errorf("%s: %+v", r, known)
	}
}

func TestRestoredString(t *testing.T) {
	r := Restored{Bans: make([]Ban, 2), Offenders: 3, Standing: 4, Expired: 5, Lifted: 6, Whitelisted: 7, Forgotten: 8, ClockBehind: 90 * time.Minute}
	const want = "2 bans to put back, 3 offenders, 4 bans in force, 5 bans expired, 6 bans lifted by hand, 7 bans whitelisted, 8 offenders " +
		"forgotten; the clock is 1h30m0s behind the time of saving, so they have as much left as they had then"
	if got := r.String(); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
