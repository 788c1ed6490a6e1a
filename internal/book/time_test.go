package book

import (
	"strings"
	"testing"
	"time"
)

// boot returns the time of another boot, so long after clock by the wall clock.
func boot(c Config, d time.Duration) Config {
	c.Here.Boot = "next"
	c.Now = Clock{Moment(time.Minute), clock.Wall.Add(d)}
	return c
}

func TestElapsed(t *testing.T) {
	row := hourly(1)
	c := config(written(t, row), 0)
	for name, test := range map[string]struct {
		set       func(c *Config)
		remaining time.Duration
		step      time.Duration
		ago       time.Duration
	}{
		"at once":           {func(*Config) {}, time.Hour, day, 0},
		"later":             {func(c *Config) { c.Now = after(time.Minute) }, 59 * time.Minute, day - time.Minute, time.Minute},
		"wall clock set":    {func(c *Config) { c.Now = Clock{after(time.Minute).Boot, clock.Wall.Add(-300 * day)} }, 59 * time.Minute, day - time.Minute, time.Minute},
		"over":              {func(c *Config) { c.Now = after(2 * time.Hour) }, 0, 22 * time.Hour, 2 * time.Hour},
		"after a boot":      {func(c *Config) { *c = boot(*c, 20*time.Minute) }, 40 * time.Minute, day - 20*time.Minute, 20 * time.Minute},
		"no battery":        {func(c *Config) { *c = boot(*c, -20*365*day) }, time.Hour, day, 0},
		"unknown boot":      {func(c *Config) { c.Here.Boot, c.Now = "", after(time.Minute) }, 59 * time.Minute, day - time.Minute, time.Minute},
		"clock since boot?": {func(c *Config) { c.Now = Clock{in(-time.Second), clock.Wall.Add(time.Minute)} }, 59 * time.Minute, day - time.Minute, time.Minute},
	} {
		c := c
		test.set(&c)
		b, _, err := Read(c)
		if err != nil {
			t.Fatal(err)
		}
		r, _ := b.Get(row.Source)
		now := c.Now.Boot
		if r.Remaining(now) != test.remaining || r.StepRemaining(now) != test.step || now.Sub(r.Last) != test.ago || now.Sub(r.First) != test.ago {
			t.Errorf("%s: remaining %v, step %v, %v ago", name, r.Remaining(now), r.StepRemaining(now), now.Sub(r.Last))
		}
		if r.BannedAt(now) != (test.remaining > 0) || r.Banned != r.BannedAt(now) || r.StepAt(now) != 1 || r.Offences != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// After a day, everything is forgotten.
	c.Now = after(day)
	mustRead(t, c)
}

// No ban gets more than its timeout, whatever was edited and however the clock
// goes, and nothing has happened in the future.
func TestCapped(t *testing.T) {
	path := written(t, hourly(1))
	edited := strings.ReplaceAll(contents(t, path), `"until":"2026`, `"until":"2086`)
	overwrite(t, path, strings.ReplaceAll(edited, `"last":"2026`, `"last":"2036`))
	b, _, err := Read(config(path, 0))
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := b.Get(address(1)); r.Remaining(clock.Boot) != time.Hour || r.Last != clock.Boot {
		t.Errorf("remaining %v, last %v", r.Remaining(clock.Boot), r.Last)
	}
}

// The wall clock is set while the owner runs: each row is read as it was, also
// by the next boot, which trusts the clock as it was last.
func TestClockSet(t *testing.T) {
	path := statePath(t)
	wrong := Clock{clock.Boot, time.Date(1970, 1, 1, 0, 5, 0, 0, time.UTC)}
	c := config(path, 0)
	c.Now = wrong
	b := open(t, c)
	put(t, b, hourly(1))
	mustSync(t, b, wrong)
	now := after(time.Minute) // set by NTP
	put(t, b, hourly(2))
	mustSync(t, b, now)
	put(t, b, hourly(3))
	mustSync(t, b, now)
	if n := strings.Count(contents(t, path), headerStart); n != 2 {
		t.Errorf("%d headers, want another one when the clock was set", n)
	}
	c.Now = now
	mustRead(t, c, hourly(1), hourly(2), hourly(3))

	c = boot(c, 11*time.Minute)
	b, _, err := Read(c)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		if r, _ := b.Get(address(n)); r.Remaining(c.Now.Boot) != 49*time.Minute {
			t.Errorf("row %d: remaining %v", n, r.Remaining(c.Now.Boot))
		}
	}
}

// The clock is set, and nothing else happens before the host is switched off.
func TestClockSetWhileIdle(t *testing.T) {
	path := statePath(t)
	c := config(path, 0)
	c.Now.Wall = time.Date(1970, 1, 1, 0, 5, 0, 0, time.UTC)
	b := open(t, c)
	put(t, b, hourly(1))
	mustSync(t, b, c.Now)
	c.Now.Boot = in(time.Minute)
	c.Now.Wall = c.Now.Wall.Add(time.Minute)
	b.Sweep(c.Now)
	if _, ok := b.NextSync(); ok {
		t.Error("there is something to write")
	}
	b.Sweep(after(time.Minute))
	if _, ok := b.NextSync(); !ok {
		t.Error("the clock was set, and that is not to be written")
	}
	mustSync(t, b, after(time.Minute))
	c = boot(c, 11*time.Minute)
	b, _, err := Read(c)
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := b.Get(address(1)); r.Remaining(c.Now.Boot) != 49*time.Minute {
		t.Errorf("remaining %v", r.Remaining(c.Now.Boot))
	}
}

// Headers are renewed now and then, so that a host without a battery knows when
// something was written last; and time goes on over several boots.
func TestBoots(t *testing.T) {
	path := statePath(t)
	c := config(path, 0)
	b := open(t, c)
	long := hourly(1)
	long.Timeout, long.Until = 10*time.Hour, in(10*time.Hour)
	put(t, b, long)
	mustSync(t, b, clock)
	b.SetTable(5)
	mustSync(t, b, after(time.Hour))
	b.Close()
	// Boots in the past: no time has passed since the last header.
	c = boot(c, -day)
	check := func(want time.Duration, table uint64) {
		t.Helper()
		b, report, err := Read(c)
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := b.Get(long.Source); r.Remaining(c.Now.Boot) != want || report.Saved.Table != table {
			t.Errorf("remaining %v, want %v; table %d, want %d", r.Remaining(c.Now.Boot), want, report.Saved.Table, table)
		}
	}
	check(9*time.Hour, 5)
	// A command writes a header of this boot, an hour later by either clock. A
	// table of that handle is another one now.
	c.Now.Boot, c.Now.Wall = c.Now.Boot.Add(time.Hour), c.Now.Wall.Add(time.Hour)
	b, _, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, hourly(2))
	mustSync(t, b, c.Now)
	b.Close()
	check(9*time.Hour, 0)
	c.Now.Boot, c.Now.Wall = c.Now.Boot.Add(time.Hour), c.Now.Wall.Add(300*day)
	if err := amend(c, []Row{hourly(3)}, nil); err != nil {
		t.Fatal(err)
	}
	check(8*time.Hour, 0)
	c.Here.Boot, c.Now = "third", Clock{0, c.Now.Wall.Add(time.Hour)}
	check(7*time.Hour, 0)
	// A header of a boot that was in the past again.
	c.Now = Clock{0, c.Now.Wall.Add(-time.Hour)}
	before := contents(t, path)
	h := newHeader(Origin{Boot: "fourth"}, Clock{0, clock.Wall})
	overwrite(t, path, string(h.append([]byte(before))))
	c.Here.Boot, c.Now = "fourth", Clock{Moment(time.Hour), c.Now.Wall}
	if b, _, err = Read(c); err != nil {
		t.Fatal(err)
	}
	if r, _ := b.Get(long.Source); r.Remaining(c.Now.Boot) != 7*time.Hour {
		t.Errorf("remaining %v", r.Remaining(c.Now.Boot))
	}
}

func TestSweep(t *testing.T) {
	b := New(0)
	hand := Row{Source: prefix("192.0.3.0/24"), Banned: true, Timeout: time.Hour, Until: in(time.Hour), ByHand: true, Comment: "x"}
	put(t, b, hourly(1), hand, sample[3])
	if n := b.Sweep(after(time.Hour - 1)); n != 0 {
		t.Errorf("%d rows forgotten", n)
	}
	if n := b.Sweep(after(time.Hour)); n != 1 {
		t.Errorf("%d rows forgotten", n)
	}
	free := hourly(1)
	free.Banned, free.Timeout, free.Until = false, 0, 0
	checkRows(t, b, free, sample[3])
	if n := b.Sweep(after(day)); n != 1 {
		t.Errorf("%d rows forgotten", n)
	}
	checkRows(t, b, sample[3])
}

func TestClock(t *testing.T) {
	if got := clock.Time(in(time.Hour)); !got.Equal(clock.Wall.Add(time.Hour)) {
		t.Error(got)
	}
	if got := clock.Moment(clock.Wall.Add(-time.Hour)); got != in(-time.Hour) {
		t.Error(got)
	}
	if got := clock.Moment(clock.Wall.Add(time.Hour)); got != clock.Boot {
		t.Error(got)
	}
	if now := ReadClock(); now.Boot <= 0 || time.Since(now.Wall).Abs() > time.Minute {
		t.Error(now)
	}
	if here := Here(3); here.Boot == "" || here.NetNS == 0 || here.Table != 3 || !here.SameTable(Here(3)) || here.SameTable(Here(4)) {
		t.Error(here)
	}
}
