package state

import (
	"bytes"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/netnstest"
)

const day = 24 * time.Hour

func TestMain(m *testing.M) {
	if path := os.Getenv(writerVariable); path != "" {
		writeForEver(path)
	}
	// For a file system that is full, and for another network namespace.
	os.Exit(netnstest.Main(m))
}

var (
	saved = ledger.Now{
		Wall: time.Date(2026, 1, 18, 11, 4, 26, 123e6, time.UTC),
		Mono: ledger.Instant(5025118 * time.Millisecond),
	}
	origin = Origin{
		Machine: "0123456789abcdef0123456789abcdef", Boot: "5b5f1b1e-0d4c-4c1e-9d0a-6f4b8a7f3c21", NetNS: 1, Table: 12,
	}
	header = Header{saved, origin}
)

// sample has a record of each sort.
var sample = []Record{
	{ // in the first tier
		Prefix: prefix("203.0.113.7/32"), Banned: true, Tier: 1, Timeout: 8 * time.Hour, Left: 8*time.Hour - 1500*time.Millisecond,
		Offences: 1, Age: 1500 * time.Millisecond, Proto: 6, Port: 23,
	},
	{ // in the top tier, found in a dump: nobody knows the port
		Prefix: prefix("2001:db8:0:1::/64"), Banned: true, Tier: 3, Timeout: 30 * day, Left: 29 * day, Offences: 7, Age: day,
	},
	{ // free, and not forgotten
		Prefix: prefix("198.51.100.9/32"), Left: -3 * day, Offences: 2, Age: 6 * day, Proto: 17, Port: 5060,
	},
	{ // a prefix, for ever
		Prefix: prefix("192.0.2.0/24"), Banned: true, ByHand: true, Comment: `a "bad" network <of> ünknown & others`,
	},
	{ // by hand, in a tier
		Prefix: prefix("203.0.113.8/32"), Banned: true, Tier: 1, Timeout: day, Left: time.Hour, ByHand: true, Comment: "fail2ban: sshd",
	},
	{ // a protocol without a name
		Prefix: prefix("203.0.113.9/32"), Banned: true, Tier: 2, Timeout: 3 * day, Left: day, Offences: 2, Age: 2 * day, Proto: 132, Port: 7,
	},
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// encoded returns a whole file.
func encoded(h Header, records ...Record) []byte {
	var b bytes.Buffer
	newEncoder(&b).encode(h, slices.Values(records))
	return b.Bytes()
}

// decode reads a file that is in memory.
func decode(data []byte) (Header, []Record, Report, error) {
	f, err := newFile(bytes.NewReader(data), saved.Wall)
	if err != nil {
		return Header{}, nil, Report{}, err
	}
	records := slices.Collect(f.Records())
	f.report.Path = "s"
	return f.Header, records, f.Report(), nil
}

// read reads a file that must be readable.
func read(t testing.TB, path string) (Header, []Record, Report) {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	records := slices.Collect(f.Records())
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	return f.Header, records, f.Report()
}

func mustWrite(t testing.TB, path string, h Header, records ...Record) (aside string) {
	t.Helper()
	aside, err := Write(path, h, slices.Values(records))
	if err != nil {
		t.Fatal(err)
	}
	return aside
}

// put makes a file without ado.
func put(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func contents(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// listing returns the names of what is in a directory, sorted.
func listing(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func statePath(t testing.TB) string { return filepath.Join(t.TempDir(), "state.jsonl") }

func diff(want, got any) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

// many yields n records that differ.
func many(n int) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for i := range n {
			r := Record{
				Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 32),
				Banned: true, Tier: 1, Timeout: 8 * time.Hour, Left: time.Duration(i) * time.Millisecond,
				Offences: 1, Age: 8*time.Hour - time.Duration(i)*time.Millisecond, Proto: 6, Port: uint16(i),
			}
			if !yield(r) {
				return
			}
		}
	}
}

// random returns a source of random numbers whose seed is printed if the test fails.
func random(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}
