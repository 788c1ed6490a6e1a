package nftset

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) {
	if child, ok := children[os.Getenv(childVariable)]; ok {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(netnstest.Main(isolated{m}))
}

// isolated runs the tests from a thread in a network namespace of its own. Examples run on that very thread, and have no other
// means to stay away from the machine's tables; tests run in goroutines of their own and make hosts.
type isolated struct{ m *testing.M }

func (i isolated) Run() int {
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		fmt.Fprintln(os.Stderr, "create network namespace:", err)
		return 1
	}
	defer ns.Close()
	return i.m.Run()
}

// lab is a network namespace with an empty table in it, and a connection to its kernel.
type lab struct {
	*Conn
	t     testing.TB
	host  *netnstest.Host
	table Table
}

func newLab(t testing.TB) *lab {
	t.Helper()
	host := netnstest.NewHost(t, "lab")
	l := &lab{t: t, host: host, table: Table{FamilyINet, "lab"}}
	l.Conn = l.dial()
	var tx Tx
	tx.AddTable(l.table)
	l.commit(&tx)
	return l
}

// dial opens one more connection to the lab's kernel.
func (l *lab) dial() *Conn {
	l.t.Helper()
	c, err := Dial(&Config{NetNS: l.host.FD()})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			l.t.Error(err)
		}
	})
	return c
}

func (l *lab) commit(tx *Tx) {
	l.t.Helper()
	if err := l.Commit(tx); err != nil {
		l.t.Fatal(err)
	}
}

// set adds a set with these elements.
func (l *lab) set(name string, typ KeyType, flags Flags, elems ...Element) *Set {
	l.t.Helper()
	return l.addSet(&Set{Name: name, Type: typ, Flags: flags}, elems...)
}

// addSet adds a set to the lab's table.
func (l *lab) addSet(s *Set, elems ...Element) *Set {
	l.t.Helper()
	s.Table = l.table
	var tx Tx
	tx.AddSet(s)
	l.commit(&tx)
	if err := l.Add(s, Each(elems...)); err != nil {
		l.t.Fatal(err)
	}
	return s
}

// read returns the elements of a set, sorted.
func (l *lab) read(s *Set) []Element {
	l.t.Helper()
	return readAll(l.t, l.Conn, s)
}

func readAll(t testing.TB, c *Conn, s *Set) []Element {
	t.Helper()
	var out []Element
	for el, err := range c.Elements(s) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, el)
	}
	slices.SortFunc(out, func(a, b Element) int { return a.Compare(b.Interval) })
	return out
}

// intervals returns what a set holds, sorted.
func (l *lab) intervals(s *Set) []Interval {
	l.t.Helper()
	return intervalsOf(l.read(s))
}

func intervalsOf(elems []Element) []Interval {
	var out []Interval
	for _, el := range elems {
		out = append(out, el.Interval)
	}
	return out
}

// nft runs the oracle in the lab, with a script on its standard input unless there are arguments, and returns what it prints.
func (l *lab) nft(script string, args ...string) string {
	l.t.Helper()
	out, err := l.tryNft(script, args...)
	if err != nil {
		l.t.Fatalf("nft %s%s: %v", script, strings.Join(args, " "), err)
	}
	return out
}

func (l *lab) tryNft(script string, args ...string) (string, error) {
	l.t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		l.t.Fatal("install nftables: these tests compare with what nft says")
	}
	if len(args) == 0 {
		args = []string{"-f", "-"}
	}
	var stdout, stderr bytes.Buffer
	l.host.Do(func() {
		cmd := exec.Command(path, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &stdout, &stderr
		err = cmd.Run()
	})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), err
}

// await polls until f is true.
func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		runtime.Gosched()
	}
}

// raceDetector reports whether the tests run with it. It allocates for ends of its own.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// random returns a source of random numbers whose seed is printed if the test fails.
func random(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
