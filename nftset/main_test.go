package nftset

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
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
	os.Exit(netnstest.Main(lab.Isolated{M: m}))
}

// fixture is a network namespace with an empty table in it, and a connection to
// its kernel.
type fixture struct {
	*Conn
	t     testing.TB
	host  *netnstest.Host
	table Table
}

func newLab(t testing.TB) *fixture {
	t.Helper()
	host := netnstest.NewHost(t, "lab")
	l := &fixture{t: t, host: host, table: Table{FamilyINet, "lab"}}
	l.Conn = l.dial()
	var tx Tx
	tx.AddTable(l.table)
	l.commit(&tx)
	return l
}

// dial opens one more connection to the lab's kernel.
func (l *fixture) dial() *Conn {
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

// replaceSeq makes elems the only elements of a set, in one transaction.
func (c *Conn) replaceSeq(s *Set, elems iter.Seq[Element]) error {
	var tx Tx
	tx.FlushSet(s)
	tx.AddSeq(s, elems)
	return c.Commit(&tx)
}

// AddSeq, RenewSeq and DeleteSeq edit in transactions of BatchSize, or as many
// elements as this process may send.
func (c *Conn) AddSeq(s *Set, elems iter.Seq[Element]) error { return c.edit((*Tx).Add, s, elems) }

func (c *Conn) RenewSeq(s *Set, elems iter.Seq[Element]) error { return c.edit((*Tx).Renew, s, elems) }

func (c *Conn) DeleteSeq(s *Set, elems iter.Seq[Element]) error {
	return c.edit((*Tx).Discard, s, elems)
}

func (c *Conn) edit(encode func(*Tx, *Set, ...Element), s *Set, elems iter.Seq[Element]) error {
	for batch := range slices.Chunk(slices.Collect(elems), BatchSize) {
		var tx Tx
		encode(&tx, s, batch...)
		err := c.Commit(&tx)
		if half := len(batch) / 2; half > 0 && errors.Is(err, unix.EMSGSIZE) {
			if err = c.edit(encode, s, each(batch[:half]...)); err == nil {
				err = c.edit(encode, s, each(batch[half:]...))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *fixture) commit(tx *Tx) {
	l.t.Helper()
	if err := l.Commit(tx); err != nil {
		l.t.Fatal(err)
	}
}

// set adds a set with these elements.
func (l *fixture) set(name string, typ KeyType, flags Flags, elems ...Element) *Set {
	l.t.Helper()
	return l.addSet(&Set{Name: name, Type: typ, Flags: flags}, elems...)
}

// addSet adds a set to the lab's table.
func (l *fixture) addSet(s *Set, elems ...Element) *Set {
	l.t.Helper()
	s.Table = l.table
	var tx Tx
	tx.AddSet(s)
	l.commit(&tx)
	if err := l.AddSeq(s, each(elems...)); err != nil {
		l.t.Fatal(err)
	}
	return s
}

// read returns the elements of a set, sorted.
func (l *fixture) read(s *Set) []Element {
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
func (l *fixture) intervals(s *Set) []Interval {
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

// nft runs the oracle in the lab; see lab.NFT.
func (l *fixture) nft(script string, args ...string) string {
	l.t.Helper()
	return lab.NFT(l.t, l.host, script, args...)
}

// raceDetector reports whether the tests run with it. It allocates for ends of
// its own.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// random returns a source of random numbers whose seed is printed if the test
// fails.
func random(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// each and singles yield elements.
func each(elems ...Element) iter.Seq[Element] { return slices.Values(elems) }

func singles(keys ...Key) iter.Seq[Element] {
	return func(yield func(Element) bool) {
		for _, k := range keys {
			if !yield(Single(k)) {
				return
			}
		}
	}
}
