package main

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/internal/overview"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// month is a server that is watched for a month. Its kernel, watcher and
// commands are real. A day goes by in that the statistics become a day older
// while nobody counts, as the clock of a host cannot be set for one process.
type month struct {
	*scene
	conn      *nftset.Conn
	offenders []netip.Addr
	gone      map[string]ruleset.Counter // what was counted by tables that are gone
}

// Over a month in which the watcher is stopped and killed, the configuration is
// read again, tables are flushed, removed and made anew, counters are reset and
// the host is rebooted, `portmon report` has what the kernel has counted, to the
// packet and the byte.
func TestMonthOfWatching(t *testing.T) {
	t.Parallel()
	m := &month{scene: &scene{T: t, Lab: lab.New(t), dir: lab.ShortDir(t), bin: t.TempDir()}, gone: make(map[string]ruleset.Counter)}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(m.bin, "portmon"))
	}
	for _, dir := range []string{"etc/portmon", "lib"} {
		if err == nil {
			err = os.MkdirAll(filepath.Join(m.dir, dir), 0o755)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	m.conn = banlab.Dial(t, m.Host)
	m.write("etc/machine-id", randomID()+"\n")
	m.newBootID()
	const conf = "[trap]\ngrace = \"0s\"\n"
	m.configure(conf)
	m.does("portmon", "apply")
	what := []struct {
		name string
		do   func()
	}{
		{"nothing", func() {}},
		{"SIGHUP", func() { m.watcher.Process.Signal(syscall.SIGHUP) }},
		{"reload", func() {
			m.configure(conf + "[scan]\nports = " + []string{"3", "5"}[rand.IntN(2)] + "\n")
			m.does("portmon", "apply")
		}},
		{"killed", func() { m.kill(m.watcher); m.traffic(); m.startWatcher() }},
		{"flushed", func() { // and made anew by the watcher
			m.does("portmon", "save")
			m.note()
			m.FlushRuleset()
			lab.Await(m, "the table is there", func() bool { return m.table().Exists })
			m.does("portmon", "save") // killed before it has counted, it would not know whose table that is
		}},
		{"removed", func() {
			m.note()
			m.does("portmon", "remove")
			m.does("portmon", "apply")
		}},
		{"reset", func() {
			m.does("portmon", "save")
			m.note()
			m.NFT("reset counters table inet " + tableName)
			m.does("portmon", "save")
		}},
		{"rebooted", func() {
			m.stop()
			m.boot()
		}},
		{"power cut", func() { // what was counted since the last write would be lost
			m.does("portmon", "save")
			m.kill(m.watcher)
			m.boot()
		}},
	}
	happened := make(map[string]int)
	const days = 30
	for day := range days {
		if m.traffic(); day%4 == 3 {
			m.does("portmon", "save") // and by no watcher until the next day
		} else {
			m.startWatcher()
			m.traffic()
			w := what[day%len(what)]
			happened[w.name]++
			w.do()
			m.traffic()
			if day%2 == 0 {
				m.stop()
			} else {
				m.kill(m.watcher)
			}
		}
		if day < days-1 {
			m.age()
		}
	}
	m.note()
	t.Log(happened)
	var r overview.Report
	if err := json.Unmarshal([]byte(m.does("portmon", "report", "--days", "30", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	var dropped, bytes uint64
	for _, name := range ruleset.Counters() {
		c := m.gone[name]
		if r.Total.Packets[name] != c.Packets {
			t.Errorf("%s: %d packets in the report, %d in the kernel", name, r.Total.Packets[name], c.Packets)
		}
		if ruleset.CountsDrops(name) {
			dropped, bytes = dropped+c.Packets, bytes+c.Bytes
		}
	}
	if r.Total.Dropped != dropped || r.Total.Bytes != bytes || r.Total.Bans != m.gone[ruleset.CounterBanned].Packets {
		t.Errorf("the report has %+v, the kernel %d dropped, %d bytes: %v", r.Total, dropped, bytes, m.gone)
	}
	if dropped < days*100 || r.Total.Bans < days {
		t.Errorf("only %d packets were dropped, and %d bans made", dropped, r.Total.Bans)
	}
	counted := 0 // what a watcher has not written before it was killed counts for the next day
	for _, d := range r.Days {
		if d.Dropped > 0 {
			counted++
		}
	}
	if len(r.Days) != days || counted < days/2 {
		t.Errorf("something was dropped on %d of %d days", counted, len(r.Days))
	}
}

// traffic is an offence of a new source, and packets of those that are banned.
func (m *month) traffic() {
	m.Helper()
	src := m.Source4()
	m.offenders = append(m.offenders, src)
	m.Offend(src)
	some := m.offenders[max(0, len(m.offenders)-5):]
	m.Internet.Burst(50+rand.IntN(50), func(i int) netnstest.Packet { return m.SYN(some[i%len(some)], lab.OpenTCP) })
}

// stop ends the watcher, which counts until then.
func (m *month) stop() {
	m.Helper()
	m.watcher.Process.Signal(syscall.SIGTERM)
	if err := m.watcher.Wait(); err != nil {
		m.Fatal("the watcher ended: ", err)
	}
}

// boot has the host begin anew, without a table.
func (m *month) boot() {
	m.Helper()
	m.note()
	m.FlushRuleset()
	m.newBootID()
	m.does("portmon", "apply", "--boot")
	m.startWatcher()
}

// note adds up what the kernel has counted before it forgets it.
func (m *month) note() {
	m.Helper()
	for name, c := range m.table().Counters {
		sum := m.gone[name]
		m.gone[name] = ruleset.Counter{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes}
	}
}

func (m *month) table() *ruleset.State {
	m.Helper()
	s, err := ruleset.Read(m.conn, tableName)
	if err != nil {
		m.Fatal(err)
	}
	return s
}

var counted = regexp.MustCompile(`"20\d\d-\d\d-\d\d(T\d\dZ)?"`)

// age makes the statistics a day older.
func (m *month) age() {
	m.Helper()
	path := stats.Path(filepath.Join(m.dir, "lib/portmon/state.jsonl"))
	text, err := os.ReadFile(path)
	if err != nil {
		m.Fatal(err)
	}
	text = counted.ReplaceAllFunc(text, func(when []byte) []byte {
		layout := `"` + time.DateOnly + `T15Z"`
		if len(when) < len(layout) {
			layout = `"` + time.DateOnly + `"`
		}
		at, err := time.Parse(layout, string(when))
		if err != nil {
			m.Fatal(err)
		}
		return []byte(at.AddDate(0, 0, -1).Format(layout))
	})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		m.Fatal(err)
	}
}
