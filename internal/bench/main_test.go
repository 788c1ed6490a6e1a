// Package bench measures portmon beside nft, and beside the table that people
// write by hand, on the same work in one run. It consists of benchmarks:
//
//	make bench [BENCHFLAGS='-bench REGEXP -rounds N -long -tables FILE']
//
// Contenders take turns in random order. Each sample is printed in the format
// that benchstat reads, and at the end come tables of medians in Markdown.
// Everything happens in network namespaces, which end with the process; it must
// be root.
package bench

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	rounds  = flag.Int("rounds", 7, "repeat what runs commands `n` times, and packets in proportion")
	shrink  = flag.Int("shrink", 1, "divide the number of bans and packets by `n`, to try the benchmarks")
	long    = flag.Bool("long", false, "also list 1,000,000 bans, and wait ten minutes after a flood")
	portmon = flag.String("portmon", "../../portmon", "measure this `file`")
	out     = flag.String("tables", "/dev/stdout", "write the tables to this `file`")
	tables  strings.Builder
)

func TestMain(m *testing.M) {
	// What this binary is when it measures, or is measured.
	self := map[string]func(args []string) error{"meter": meter, "dump": dump, "read": read, "getmany": getMany}
	var err error
	if len(os.Args) > 1 && self[os.Args[1]] != nil {
		err = self[os.Args[1]](os.Args[2:])
	} else {
		flag.Parse()
		err = run(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(m *testing.M) error {
	if flag.Lookup("test.bench").Value.String() == "" {
		os.Exit(m.Run()) // the tests of the benchmarks
	}
	if os.Geteuid() != 0 {
		return errors.New("must be root: what nft sends at once does not fit the socket buffers of others")
	}
	if err := flag.Set("test.benchtime", "1x"); err != nil { // each benchmark repeats its work itself
		return err
	}
	code := m.Run()
	machine, err := exec.Command("sh", "-c", `uname -sr; sed -n 's/^model name.*: //p' /proc/cpuinfo | uniq -c; nft --version`).Output()
	if err == nil {
		head := fmt.Sprintf("Medians; A : B is the median of the ratios of A to B. %s\n%s\n", runtime.Version(), machine)
		err = os.WriteFile(*out, []byte(head+tables.String()), 0o644)
	}
	if err == nil && code != 0 {
		err = errors.New("some benchmarks failed")
	}
	return err
}

// table is a table in Markdown, whose first columns are text and whose others
// are numbers.
type table struct {
	caption, note string
	text          int
	columns       []string
	rows          strings.Builder
}

func (t *table) row(cells ...string) { fmt.Fprintf(&t.rows, "| %s |\n", strings.Join(cells, " | ")) }

// write adds the table to those that are written at the end.
func (t *table) write() {
	rule := strings.Repeat("---|", t.text) + strings.Repeat("---:|", len(t.columns)-t.text)
	fmt.Fprintf(&tables, "### %s\n\n| %s |\n|%s\n%s\n", t.caption, strings.Join(t.columns, " | "), rule, t.rows.String())
	if t.note != "" {
		fmt.Fprintf(&tables, "%s\n\n", t.note)
	}
}

// size is how many bans or packets stand for n.
func size(n int) int { return max(n / *shrink, 100) }

// thousands writes a number as "65,536".
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// file writes a file that commands read, and returns its name.
func file(b *testing.B, text string) string {
	f, err := os.CreateTemp(b.TempDir(), "")
	check(b, err)
	_, err = f.WriteString(text)
	check(b, errors.Join(err, f.Close()))
	return f.Name()
}

// clock reads a clock of the kernel, in nanoseconds.
func clock(b *testing.B, id int32) int64 {
	var ts unix.Timespec
	check(b, os.NewSyscallError("clock_gettime", unix.ClockGettime(id, &ts)))
	return ts.Nano()
}
