// Package bench measures portmon beside nft, and beside the table that people
// write by hand, on the same work in one run. It consists of benchmarks:
//
//	make bench [BENCHFLAGS='-bench REGEXP -rounds N -shrink N -long']
//
// Contenders take turns in random order. Each sample is printed in the format
// that benchstat reads, which makes tables of medians. Everything happens in
// network namespaces, which end with the process; it must be root, because what
// nft sends at once does not fit the socket buffers of others.
package bench

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

var (
	rounds = flag.Int("rounds", 7, "repeat what runs commands `n` times, and packets in proportion")
	shrink = flag.Int("shrink", 1, "divide the number of bans and packets by `n`, to try the benchmarks")
	long   = flag.Bool("long", false, "also look ten minutes after each flood")
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "meter" {
		os.Exit(meter(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// contender is one of those that do the same work.
type contender struct {
	name    string
	measure func() (metrics string) // in benchstat's format
}

// compare lets contenders do some work n times in random order.
func compare(t testing.TB, work string, n int, contenders ...contender) {
	for range n {
		metrics := make([]string, len(contenders))
		for _, i := range rand.Perm(len(contenders)) {
			metrics[i] = contenders[i].measure()
		}
		for i, c := range contenders { // in this order, as benchstat compares to the first
			report(t, work, c.name, "%s", metrics[i])
		}
	}
}

// report prints a sample for benchstat.
func report(t testing.TB, work, by, metrics string, values ...any) {
	name, _, _ := strings.Cut(t.Name(), "/")
	fmt.Println(strings.ReplaceAll(name+"/work="+work+"/by="+by, " ", "_"), 1, fmt.Sprintf(metrics, values...))
}

// theTable is portmon's, or one written by hand.
var theTable = nftset.Table{Family: nftset.FamilyINet, Name: ruleset.Default().Table}

const standard = 65536 // bans that the sets take by default

// site is a lab whose host has portmon's configuration and a state file.
type site struct {
	*banlab.Lab
	toml, state string
}

// newSite makes a host without a table.
func newSite(b *testing.B, setSize int, config string) *site {
	dir := lab.ShortDir(b)
	s := &site{banlab.New(b), filepath.Join(dir, "portmon.toml"), filepath.Join(dir, "state.jsonl")}
	config = fmt.Sprintf("%s\n[ban]\nsize = %d\n[watch]\nstate = %q\n", config, setSize, s.state)
	check(b, os.WriteFile(s.toml, []byte(config), 0o600))
	return s
}

// newBanned makes a host with portmon's table, n bans and a state file of them.
func newBanned(b *testing.B, n int) *site {
	s := newSite(b, max(2*n, standard), "")
	s.portmon("apply")()
	s.fill("ban4", sources4(n))
	s.portmon("save")()
	return s
}

// fill adds sources to a set, if the table has it. Each brings its own timeout, as
// all bans here do: the time of a ban by hand is not the default of the set.
func (s *site) fill(name string, sources []netip.Addr) {
	set, err := s.Conn.Set(theTable, name)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	check(s.T, err)
	elems := make([]nftset.Element, len(sources))
	for i, a := range sources {
		elems[i] = nftset.Addr(a).For(100 * time.Hour)
	}
	for batch := range slices.Chunk(elems, nftset.BatchSize) {
		var tx nftset.Tx
		tx.Add(set, batch...)
		check(s.T, s.Conn.Commit(&tx))
	}
}

// banned returns how many bans there are, in a table that need not have all sets.
func (s *site) banned() (sum int) {
	for _, set := range []string{"ban4", "ban6", "net4", "net6"} {
		n, err := s.Conn.Count(&nftset.Set{Table: theTable, Name: set})
		if !errors.Is(err, os.ErrNotExist) {
			check(s.T, err)
		}
		sum += n
	}
	return sum
}

// addrs returns one address of each of n subnets, in a random order that is the
// same in every run. The subnets have this many bits and follow one another.
func addrs(first string, bits, n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i, subnet := range rand.New(rand.NewPCG(2026, 1)).Perm(n) {
		a := netip.MustParseAddr(first)
		b := a.As16()
		half, shift := b[8:], 32-bits
		if a.Is6() {
			half, shift = b[:8], 64-bits
		}
		binary.BigEndian.PutUint64(half, binary.BigEndian.Uint64(half)+uint64(subnet)<<shift)
		list[i] = netip.AddrFrom16(b).Unmap()
	}
	return list
}

// sources4 and sources6 return n sources to be banned. Those of IPv6 are of as
// many /48s: subnets in which several sources offend are banned as a whole.
func sources4(n int) []netip.Addr { return addrs("16.0.0.0", 32, n) }
func sources6(n int) []netip.Addr { return addrs("2b00::", 48, n) }

// prefixes returns a longer prefix of each of n such subnets.
func prefixes(first string, bits, n int) (list []netip.Prefix) {
	for i, a := range addrs(first, bits, n) {
		list = append(list, netip.PrefixFrom(a, bits+1+i%12))
	}
	return list
}
func prefixes4(n int) []netip.Prefix { return prefixes("16.0.0.0", 19, n) }
func prefixes6(n int) []netip.Prefix { return prefixes("2a00::", 47, n) }

// size is how many bans or packets stand for n.
func size(n int) int { return max(n / *shrink, 100) }

func median(samples []float64) float64 {
	return slices.Sorted(slices.Values(samples))[len(samples)/2]
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
