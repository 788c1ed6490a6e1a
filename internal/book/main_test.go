package book

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

const day = 24 * time.Hour

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		if err := children[os.Getenv(childVariable+"_KIND")](path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(netnstest.Main(m)) // for a file system that is full, and for other users
}

// childVariable makes the test binary another process that works on the file
// which it names.
const childVariable = "PORTMON_BOOK_CHILD"

var children = map[string]func(path string) error{"append": appendForEver, "use": useBook}

var clock = Clock{Moment(5025118 * time.Millisecond), time.Date(2026, 1, 18, 11, 4, 26, 123e6, time.UTC)}

func config(path string, rows int) Config {
	return Config{Path: path, MaxRows: rows, Now: clock, Here: Origin{Machine: "m", Boot: "b", NetNS: 1, Table: 2}}
}

// after returns the clock d later.
func after(d time.Duration) Clock { return Clock{clock.Boot.Add(d), clock.Wall.Add(d)} }

// in returns a moment as seen from clock.
func in(d time.Duration) Moment { return clock.Boot.Add(d) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// address returns the nth source of tests that need many.
func address(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

// hourly returns a row of the nth source with a ban for an hour.
func hourly(n int) Row {
	return Row{
		Source: address(n), Banned: true, Timeout: time.Hour, Until: in(time.Hour), Step: 1, StepUntil: in(day),
		Cause: ruleset.CauseTrap, Offences: 1, First: in(0), Last: in(0), Proto: 6, Port: 23,
	}
}

// sample has a row of each sort.
var sample = []Row{
	{
		Source: prefix("203.0.113.7/32"), Banned: true, Timeout: 8 * time.Hour, Until: in(8*time.Hour - 1500*time.Millisecond),
		Step: 1, StepUntil: in(30 * day), Cause: ruleset.CauseTrap, Offences: 1, First: in(-1500 * time.Millisecond), Last: in(-1500 * time.Millisecond),
		Proto: 6, Port: 23,
	},
	{
		Source: prefix("2001:db8:0:1::/64"), Banned: true, Timeout: 30 * day, Until: in(29 * day),
		Step: 3, StepUntil: in(59 * day), Cause: ruleset.CauseScan, Offences: 7, First: in(-300 * day), Last: in(-day),
	},
	{
		Source: prefix("198.51.100.9/32"), Step: 2, StepUntil: in(27 * day), Offences: 2, First: in(-7 * day), Last: in(-6 * day), Proto: 17, Port: 5060,
	},
	{
		Source: prefix("192.0.2.0/24"), Banned: true, ByHand: true, Cause: ruleset.CauseHand, Comment: `a "bad" network <of> ünknown & others` + "\n",
	},
	{
		Source: prefix("203.0.113.8/32"), Banned: true, Timeout: 100 * time.Millisecond, Until: in(50 * time.Millisecond), ByHand: true,
		Cause: ruleset.CauseHand, Comment: "fail2ban: sshd",
	},
	{
		Source: prefix("2001:db8:7::/48"), Banned: true, Timeout: 3 * day, Until: in(day), Cause: ruleset.CauseSubnet, Offences: 1, First: in(-2 * day), Last: in(-2 * day), Proto: 132,
	},
	{Source: prefix("192.0.2.77/32"), Banned: true, Timeout: day, Until: in(day), Cause: ruleset.CauseOther},
}

func statePath(t testing.TB) string { return filepath.Join(t.TempDir(), "state.jsonl") }

func open(t testing.TB, c Config) *Book {
	t.Helper()
	b, _, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// written returns the path of a file with these rows.
func written(t testing.TB, rows ...Row) string {
	t.Helper()
	path := statePath(t)
	b := open(t, config(path, 0))
	put(t, b, rows...)
	mustSync(t, b, clock)
	b.Close()
	return path
}

// amend merges rows into a book, and frees sources.
func amend(c Config, learn []Row, free []netip.Prefix) error {
	sources := slices.Clone(free)
	for _, r := range learn {
		sources = append(sources, r.Source)
	}
	_, err := Amend(c, sources, func(b *Book) {
		for _, p := range free {
			b.Free(p)
		}
		for _, r := range learn {
			b.Learn(r)
		}
	}, nil)
	return err
}

func put(t testing.TB, b *Book, rows ...Row) {
	t.Helper()
	for _, r := range rows {
		if !b.Put(r) {
			t.Fatalf("not put: %+v", r)
		}
	}
}

func mustSync(t testing.TB, b *Book, now Clock) {
	t.Helper()
	if err := b.Sync(now); err != nil {
		t.Fatal(err)
	}
}

// mustRead reads a file whose rows must be these, at the time of a Config.
func mustRead(t testing.TB, c Config, want ...Row) Report {
	t.Helper()
	b, report, err := Read(c)
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, b, want...)
	return report
}

func checkRows(t testing.TB, b *Book, want ...Row) {
	t.Helper()
	if d := cmp.Diff(sorted(want), sorted(slices.Collect(b.Rows())), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
}

func sorted(rows []Row) []Row {
	rows = append([]Row{}, rows...)
	slices.SortFunc(rows, func(a, b Row) int { return text.ComparePrefixes(a.Source, b.Source) })
	return rows
}

func contents(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func overwrite(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listing returns the names in a folder, sorted.
func listing(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func identity(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// refusal returns the reason of a *RefusedError, "" if err is none.
func refusal(err error) string {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return ""
}

// random returns a source of random numbers whose seed is printed if the test
// fails.
func random(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
