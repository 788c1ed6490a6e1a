package stats

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// month is a host over which a month passes. Its kernel is real, its clock and
// its boots are not.
type month struct {
	*banlab.Lab
	spec  ruleset.Spec
	state string
	now   time.Time
	boot  int
	stats *Stats
	gone  map[string]ruleset.Counter // what was counted by tables that are gone
}

func (m *month) table() Table {
	t := TableOf(m.Open().State)
	t.Boot = fmt.Sprint("boot ", m.boot)
	return t
}

// apply makes the table, as portmon does.
func (m *month) apply() {
	m.Apply(m.spec)
	m.stats.AddTable(m.table(), true, m.now)
	m.write()
}

func (m *month) count() { m.stats.AddTable(m.table(), false, m.now) }

func (m *month) write() {
	m.T.Helper()
	if wait := m.stats.Flush(clock(m.now)); wait != nil {
		if err := wait(); err != nil {
			m.T.Fatal(err)
		}
	}
}

// restart ends the process that counts, as it is.
func (m *month) restart() {
	m.T.Helper()
	if m.stats != nil {
		m.stats.Close()
	}
	s, report, err := Open(m.state, book.Origin{Boot: fmt.Sprint("boot ", m.boot)}, time.UTC, clock(m.now), 0)
	if err != nil || report.String() != "" {
		m.T.Fatal(err, report)
	}
	m.stats = s
}

// note adds up what the kernel has counted before it forgets it.
func (m *month) note() {
	for name, c := range m.Open().Counters {
		sum := m.gone[name]
		m.gone[name] = ruleset.Counter{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes}
	}
}

// Over a month in which the process that counts is killed, the table flushed
// and made again, the host rebooted and the counters reset, what was counted is
// what the kernel has, to the packet and the byte.
func TestMonth(t *testing.T) {
	spec := ruleset.Default()
	spec.Grace, spec.Subnet6 = 0, 0
	m := &month{
		Lab: banlab.New(t), spec: spec, state: filepath.Join(t.TempDir(), "state.jsonl"), now: noon.AddDate(0, 0, -29),
		gone: make(map[string]ruleset.Counter),
	}
	first := m.now
	m.restart()
	defer func() { m.stats.Close() }()
	m.apply()
	random := rand.New(rand.NewPCG(1, 2))
	happened := make(map[string]int)
	for day := range 30 {
		for range 4 {
			offenders := m.Sources(1)
			m.Offend(offenders...)
			m.Burst(50+random.IntN(100), offenders)
			what := []string{"nothing", "read", "written", "killed", "flushed", "rebooted", "reset"}[random.IntN(7)]
			happened[what]++
			switch what {
			case "read":
				m.count()
			case "written":
				m.count()
				m.write()
			case "killed":
				m.count() // and not written
				m.restart()
			case "flushed":
				m.count() // as portmon save does, which is to be called before
				m.write()
				m.note()
				m.FlushRuleset()
				m.restart()
				m.apply()
			case "rebooted":
				m.count()
				m.write()
				m.note()
				m.FlushRuleset()
				m.boot++
				m.restart()
				m.apply()
			case "reset":
				m.count()
				m.note()
				m.resetCounters()
				m.count()
				m.write()
			}
		}
		m.now = first.AddDate(0, 0, day)
	}
	m.count()
	m.write()
	m.note()
	t.Log(happened)
	got := total(read(t, m.state), m.now)
	var dropped uint64 // bytes
	for _, name := range ruleset.Counters() {
		if ruleset.CountsDrops(name) {
			dropped += m.gone[name].Bytes
		}
		if want := m.gone[name].Packets; got.Packets[name] != want {
			t.Errorf("%s: %d packets in the statistics, %d in the kernel", name, got.Packets[name], want)
		}
	}
	if packets := m.gone[ruleset.CounterDropped].Packets; got.Bytes != dropped || packets < 30*4*50 {
		t.Errorf("%d bytes in the statistics, %d in the kernel, of %d packets", got.Bytes, dropped, packets)
	}
}

// Burst sends packets of banned sources.
func (m *month) Burst(n int, sources []netip.Addr) {
	m.Internet.Burst(n, func(i int) netnstest.Packet { return m.SYN(sources[i%len(sources)], lab.OpenTCP) })
}

// resetCounters does what `nft reset counters` does.
func (m *month) resetCounters() {
	m.T.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(m.Host.FD()))
	if err != nil {
		m.T.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: m.spec.Table}
	if _, err := conn.ResetObjects(table); err != nil {
		m.T.Fatal(err)
	}
}
