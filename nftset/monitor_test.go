package nftset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// listen opens a monitor for the lab's table, which waits 20 s at most.
func (l *fixture) listen(config MonitorConfig) *Monitor {
	l.t.Helper()
	config.NetNS, config.Table = l.host.FD(), l.table
	m, err := Listen(&config)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			l.t.Error(err)
		}
	})
	if err := m.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	return m
}

// describe returns a set of the lab's table, which need not exist.
func (l *fixture) describe(name string, typ KeyType) Set {
	return Set{Table: l.table, Name: name, Type: typ}
}

// hear returns the events of the next transaction, and its Commit apart.
func hear(t testing.TB, m *Monitor) (events []Event, commit Event) {
	t.Helper()
	for {
		var err error
		if events, err = m.Receive(events); err != nil {
			t.Fatalf("after %v: %v", briefly(events), err)
		}
		if last := events[len(events)-1]; last.Kind == Commit {
			return events[:len(events)-1], last
		}
	}
}

// briefly writes events as the tests below do, in an order of no meaning: sets
// have none. Of the time that an element has left it tells the hours.
func briefly(events []Event) []string {
	var lines []string
	for _, ev := range events {
		line := ev.Kind.String()
		if ev.Set != "" {
			line += " " + ev.Set
		}
		if el := ev.Element; el != (Element{}) {
			line += " " + el.Interval.String()
			if ev.End {
				line += " end"
			}
			if el.Timeout > 0 {
				line += fmt.Sprintf(" timeout %v", el.Timeout)
			}
			if el.Remaining > 0 {
				line += fmt.Sprintf(" left %vh", el.Remaining.Round(time.Hour).Hours())
			}
			if el.Comment != "" {
				line += fmt.Sprintf(" %q", el.Comment)
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// runNft runs nft with a script in the lab.
func (l *fixture) runNft(script string) {
	l.t.Helper()
	path := lab.Program(l.t, "nft")
	l.host.Do(func() {
		var stderr bytes.Buffer
		cmd := exec.Command(path, "-f", "-")
		cmd.Stdin, cmd.Stderr = strings.NewReader(script+"\n"), &stderr
		if err := cmd.Run(); err != nil {
			l.t.Fatalf("nft: %s: %v: %s", script, err, &stderr)
		}
	})
}

// TestMonitorHearsNft has another program do all that can be done to a table
// and its sets.
func TestMonitorHearsNft(t *testing.T) {
	l := newLab(t)
	m := l.listen(MonitorConfig{Sets: []Set{l.describe("ban4", IPv4Addr), l.describe("net6", IPv6Addr), l.describe("trap", InetService)}})
	for _, tt := range []struct {
		script string
		want   []string
	}{
		{"add set inet lab ban4 { type ipv4_addr; timeout 8h; }", []string{"set added ban4"}},
		{"add element inet lab ban4 { 192.0.2.1 }", []string{"element added ban4 192.0.2.1 left 8h"}},
		{
			`add element inet lab ban4 { 192.0.2.2 timeout 3h comment "by hand", 192.0.2.3 timeout 9h expires 5h }`,
			[]string{`element added ban4 192.0.2.2 timeout 3h0m0s left 3h "by hand"`, "element added ban4 192.0.2.3 timeout 9h0m0s left 5h"},
		},
		{
			"delete element inet lab ban4 { 192.0.2.1, 192.0.2.3 }",
			[]string{"element deleted ban4 192.0.2.1 left 8h", "element deleted ban4 192.0.2.3 timeout 9h0m0s left 5h"},
		},
		{
			"add element inet lab ban4 { 192.0.2.4 }; delete element inet lab ban4 { 192.0.2.4 }",
			[]string{"element added ban4 192.0.2.4 left 8h", "element deleted ban4 192.0.2.4 left 8h"},
		},
		{"flush set inet lab ban4", []string{`element deleted ban4 192.0.2.2 timeout 3h0m0s left 3h "by hand"`}},

		{"add set inet lab net6 { type ipv6_addr; flags interval, timeout; }", []string{"set added net6"}},
		{
			"add element inet lab net6 { 2001:db8::/32 timeout 2h }",
			[]string{"element added net6 2001:db8:: timeout 2h0m0s left 2h", "element added net6 2001:db9:: end"},
		},
		{
			"delete element inet lab net6 { 2001:db8::/32 }",
			[]string{"element deleted net6 2001:db8:: timeout 2h0m0s left 2h", "element deleted net6 2001:db9:: end"},
		},
		{
			"add set inet lab trap { type inet_service; elements = { 23, 445 }; }",
			[]string{"set added trap", "element added trap 23", "element added trap 445"},
		},
		{"add set inet lab other { type ipv4_addr; elements = { 192.0.2.1 }; }", nil},
		{"add chain inet lab input { type filter hook input priority 0; }", nil},
		{"add rule inet lab input tcp dport { 1, 2 } drop", nil},
		{"flush chain inet lab input", nil},
		{"delete set inet lab trap", []string{"set deleted trap"}},
		{"add table inet lab { flags dormant; }", []string{"table added"}},
		{"delete table inet lab", []string{"set deleted ban4", "set deleted net6", "table deleted"}},
		{
			"add table inet lab; add set inet lab ban4 { type ipv4_addr; elements = { 192.0.2.1 }; }",
			[]string{"table added", "set added ban4", "element added ban4 192.0.2.1"},
		},
		{"flush ruleset", []string{"set deleted ban4", "table deleted"}},
	} {
		l.runNft(tt.script)
		events, commit := hear(t, m)
		slices.Sort(tt.want)
		// This entry is nft's own addition, seen with 1.0.6. It means nothing.
		got := slices.DeleteFunc(briefly(events), func(line string) bool { return line == "element added net6 :: end" })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n%q, want\n%q", tt.script, got, tt.want)
		}
		for _, ev := range events {
			if ev.PortID != commit.PortID {
				t.Errorf("%s: %v by port %d, commit by %d", tt.script, ev.Kind, ev.PortID, commit.PortID)
			}
		}
		if commit.PortID == l.PortID() {
			t.Errorf("%s: by port %d", tt.script, commit.PortID)
		}
	}
}

// TestMonitorHearsOfChanges adds what is there, with other properties. Kernels
// that change them tell.
func TestMonitorHearsOfChanges(t *testing.T) {
	l := newLab(t)
	addr := AddrKey(netip.MustParseAddr("192.0.2.1"))
	ban := Element{Interval: Single(addr).Interval, Timeout: time.Hour}
	s := l.set("ban4", IPv4Addr, FlagTimeout, ban)
	m := l.listen(MonitorConfig{Sets: []Set{*s}})
	expect := func(want string) {
		t.Helper()
		if events, _ := hear(t, m); !slices.Equal(briefly(events), []string{want}) {
			t.Errorf("heard %q, want %q", briefly(events), want)
		}
	}
	s.Timeout = 8 * time.Hour
	var tx Tx
	tx.AddSet(s)
	l.commit(&tx)
	if sets, err := l.Sets(l.table); err != nil {
		t.Fatal(err)
	} else if sets[0].Timeout == s.Timeout { // from the stable series of Linux 6.1 on
		expect("set added ban4")
	}

	ban.Timeout = 2 * time.Hour
	for range 2 { // the second changes nothing on any kernel
		if err := l.AddSeq(s, each(ban)); err != nil {
			t.Fatal(err)
		}
	}
	now, err := l.Get(s, addr)
	if err != nil {
		t.Fatal(err)
	}
	if now.Timeout == ban.Timeout { // from Linux 6.12 on
		expect("element added ban4 192.0.2.1 timeout 2h0m0s left 2h")
	}

	tx.Reset()
	tx.DeleteSeq(s, singles(addr))
	l.commit(&tx)
	expect(fmt.Sprintf("element deleted ban4 192.0.2.1 timeout %v left %vh", now.Timeout, now.Timeout.Hours()))
}

// TestMonitorHearsOwnEdits makes transactions as large as BatchSize, and knows
// its own.
func TestMonitorHearsOwnEdits(t *testing.T) {
	const n = 5000
	l := newLab(t)
	s := l.set("ban4", IPv4Addr, FlagTimeout)
	m := l.listen(MonitorConfig{Sets: []Set{*s}})
	edit := func(kind EventKind, count int, edit func() error) {
		t.Helper()
		done := make(chan error)
		go func() { done <- edit() }()
		events, commit := hear(t, m)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		heard := make(map[Key]bool)
		for _, ev := range events {
			if ev.Kind != kind || ev.Set != "ban4" || ev.PortID != l.PortID() {
				t.Fatalf("%+v, want %v by port %d", ev, kind, l.PortID())
			}
			heard[ev.Element.From] = true
		}
		if len(events) != count || len(heard) != count {
			t.Errorf("%d events, of %d elements, want %d %v", len(events), len(heard), count, kind)
		}
		if commit.PortID != l.PortID() {
			t.Errorf("%+v, want port %d", commit, l.PortID())
		}
	}
	edit(ElementAdded, n, func() error { return l.AddSeq(s, singles(manyKeys(n)...)) })
	edit(ElementDeleted, n/2, func() error {
		var tx Tx
		tx.DeleteSeq(s, singles(manyKeys(n/2)...))
		return l.Commit(&tx)
	})
	edit(ElementDeleted, n/2, func() error {
		var tx Tx
		tx.FlushSet(s)
		return l.Commit(&tx)
	})
}

// manyKeys returns n addresses.
func manyKeys(n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = Key{lo: 10<<24 + uint64(i), typ: IPv4Addr}
	}
	return keys
}

// TestMonitorHearsNothingOfOthers edits other tables, families and sets, then
// one of its own.
func TestMonitorHearsNothingOfOthers(t *testing.T) {
	l := newLab(t)
	m := l.listen(MonitorConfig{Sets: []Set{l.describe("ban4", IPv4Addr)}})
	for _, table := range []string{"ip lab", "inet la", "inet labs"} {
		l.runNft("add table " + table)
		l.runNft("add set " + table + " ban4 { type ipv4_addr; elements = { 192.0.2.1 }; }")
		l.runNft("delete table " + table)
	}
	l.runNft("add set inet lab ban4 { type ipv4_addr; }")
	events, _ := hear(t, m)
	if got, want := briefly(events), []string{"set added ban4"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// TestMonitorIsDeafToPackets is about the kernel. Should it begin to tell of
// elements that the packet path adds, or of those that expire, then this test
// says so, and whoever needs no other source for them.
func TestMonitorIsDeafToPackets(t *testing.T) {
	l := newLab(t)
	outside := netnstest.NewHost(t, "outside")
	link := netnstest.Connect(t, outside, l.host, "192.0.2.0/24")
	l.runNft(`
		add set inet lab ban4 { type ipv4_addr; flags dynamic, timeout; timeout 1h; gc-interval 100ms; }
		add set inet lab brief { type ipv4_addr; flags dynamic, timeout; timeout 100ms; gc-interval 100ms; }
		add chain inet lab input { type filter hook input priority 0; }
		add rule inet lab input udp dport 9 add @ban4 { ip saddr } update @brief { ip saddr } drop`)
	ban4, short := l.describe("ban4", IPv4Addr), l.describe("brief", IPv4Addr)
	m := l.listen(MonitorConfig{Sets: []Set{ban4, short}})

	const n = 20
	outside.Burst(n, func(i int) netnstest.Packet {
		src := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
		return netnstest.Datagram(src, netip.AddrPortFrom(link.B.IPv4, 9), "")
	})
	if got := len(l.read(&ban4)); got != n {
		t.Fatalf("%d elements, want %d", got, n)
	}
	lab.Await(t, "the elements of brief expire and are collected", func() bool {
		sets, err := l.Sets(l.table)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(sets, func(s Set) bool { return s.Name == short.Name })
		return sets[i].Count <= 0 && len(l.read(&short)) == 0
	})
	if err := l.AddSeq(&ban4, singles(manyKeys(1)...)); err != nil {
		t.Fatal(err)
	}
	events, _ := hear(t, m)
	if got, want := briefly(events), []string{"element added ban4 10.0.0.0 left 1h"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// TestMonitorIsDeafToTheEndOfAnOwner is about the kernel too: a table can go
// without an event.
func TestMonitorIsDeafToTheEndOfAnOwner(t *testing.T) {
	l := newLab(t)
	own := Table{FamilyINet, "own"}
	m, err := Listen(&MonitorConfig{NetNS: l.host.FD(), Table: own})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	owner, err := Dial(&Config{NetNS: l.host.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	var tx Tx
	var e encoder
	e.string(unix.NFTA_TABLE_NAME, own.Name)
	e.u32(unix.NFTA_TABLE_FLAGS, 2) // NFT_TABLE_F_OWNER, Linux 5.12
	tx.Message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, own.Family, e.b, "add table", own.String())
	if err := owner.Commit(&tx); errors.Is(err, unix.EINVAL) {
		return // Linux before 5.12 knows no owners
	} else if err != nil {
		t.Fatal(err)
	}
	if events, _ := hear(t, m); !slices.Equal(briefly(events), []string{"table added"}) {
		t.Errorf("heard %q", briefly(events))
	}
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "the table is gone", func() bool { return !strings.Contains(l.nft("", "list", "tables"), "own") })
	l.runNft("add table inet own")
	if events, _ := hear(t, m); !slices.Equal(briefly(events), []string{"table added"}) {
		t.Errorf("heard %q", briefly(events))
	}
}

// TestMonitorOverrun makes more events than the buffer holds, while nobody
// reads.
func TestMonitorOverrun(t *testing.T) {
	l := newLab(t)
	s := l.set("ban4", IPv4Addr, 0)
	m := l.listen(MonitorConfig{Sets: []Set{*s}, ReadBuffer: 32 << 10})
	const n = 20_000
	if err := l.AddSeq(s, singles(manyKeys(n)...)); err != nil {
		t.Fatal(err)
	}
	heard := 0
	for overrun := false; !overrun; {
		events, err := m.Receive(nil)
		if err != nil {
			t.Fatal(err)
		}
		heard += len(events)
		overrun = events[len(events)-1].Kind == Overrun
	}
	t.Logf("heard %d events", heard)
	if heard < 10 || heard > n/10 {
		t.Errorf("heard %d events, the overrun among them", heard)
	}
	result := receiving(t, m) // there is nothing left
	l.runNft("add chain inet lab input { type filter hook input priority 0; }")
	if err := <-result; err != nil {
		t.Errorf("after the overrun: %v", err)
	}
	for range 3 {
		l.runNft("add element inet lab ban4 { 192.0.2.1 }; delete element inet lab ban4 { 192.0.2.1 }")
		events, _ := hear(t, m)
		if got, want := briefly(events), []string{"element added ban4 192.0.2.1", "element deleted ban4 192.0.2.1"}; !slices.Equal(got, want) {
			t.Errorf("after the overrun heard %q, want %q", got, want)
		}
	}
}

// TestMonitorOfAnotherType listens to a set whose keys are not what it was
// told, and goes on.
func TestMonitorOfAnotherType(t *testing.T) {
	l := newLab(t)
	m := l.listen(MonitorConfig{Sets: []Set{l.describe("a", IPv6Addr), l.describe("b", IPv4Addr)}})
	l.runNft(`
		add set inet lab a { type ipv4_addr; elements = { 192.0.2.1 }; }
		add set inet lab b { type ipv4_addr; elements = { 192.0.2.2 }; }`)
	got, err := m.Receive(nil)
	if want := "receive events of table inet lab: read event of set inet lab a: its keys are not of type ipv6_addr"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if want := []string{"element added b 192.0.2.2", "set added a", "set added b"}; !slices.Equal(briefly(got), want) {
		t.Errorf("heard %q, want %q", briefly(got), want)
	}
	if events, _ := hear(t, m); len(events) != 0 {
		t.Errorf("heard %q, want the commit alone", briefly(events))
	}
}

func TestListenRefuses(t *testing.T) {
	l := newLab(t)
	for want, s := range map[string]Set{
		"listen to set ip lab a in table inet lab: it is of another table":                      {Table: Table{FamilyIPv4, "lab"}, Name: "a", Type: IPv4Addr},
		"listen to set inet lab a in table inet lab: unknown key type type 99":                  l.describe("a", 99),
		"listen to set inet lab a in table inet lab: intervals of inet_proto are not supported": {Table: l.table, Name: "a", Type: InetProto, Flags: FlagInterval},
	} {
		if _, err := Listen(&MonitorConfig{NetNS: l.host.FD(), Table: l.table, Sets: []Set{s}}); err == nil || err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	}
	if err := l.listenWithoutPrivilege(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("without CAP_NET_ADMIN: %v, want os.ErrPermission", err)
	}
}

// listenWithoutPrivilege calls Listen from a thread that has not CAP_NET_ADMIN.
func (l *fixture) listenWithoutPrivilege() (err error) {
	l.t.Helper()
	l.host.Do(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var have [2]unix.CapUserData
		if err := unix.Capget(&header, &have[0]); err != nil {
			l.t.Fatal(err)
		}
		without := have
		without[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&header, &without[0]); err != nil {
			l.t.Fatal(err)
		}
		_, err = Listen(&MonitorConfig{Table: l.table})
		if err := unix.Capset(&header, &have[0]); err != nil {
			l.t.Fatal(err)
		}
	})
	return err
}

// receiving calls Receive in another goroutine and returns when it waits there,
// with what it will return.
func receiving(t *testing.T, m *Monitor) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		_, err := m.Receive(nil)
		result <- err
	}()
	stacks := make([]byte, 1<<20)
	lab.Await(t, "a goroutine waits in Receive", func() bool {
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "nftset.(*Monitor).Receive(") {
				return true
			}
		}
		return false
	})
	return result
}

func TestMonitorClose(t *testing.T) {
	l := newLab(t)
	m := l.listen(MonitorConfig{})
	result := receiving(t, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Receive, while it waits: %v, want os.ErrClosed", err)
	}
	if _, err := m.Receive(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Receive, later: %v, want os.ErrClosed", err)
	}
}

func TestMonitorDeadline(t *testing.T) {
	l := newLab(t)
	m := l.listen(MonitorConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	context.AfterFunc(ctx, func() { m.SetReadDeadline(time.Unix(1, 0)) })
	result := receiving(t, m)
	cancel()
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Receive: %v, want os.ErrDeadlineExceeded", err)
	}
	if err := m.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	l.runNft("delete table inet lab")
	if events, _ := hear(t, m); !slices.Equal(briefly(events), []string{"table deleted"}) {
		t.Errorf("heard %q", briefly(events))
	}
}

// TestMonitorLeaksNothing counts file descriptors and goroutines, after
// monitors that were in use and attempts that failed.
func TestMonitorLeaksNothing(t *testing.T) {
	l := newLab(t)
	files := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	round := func() {
		m := l.listen(MonitorConfig{})
		result := receiving(t, m)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		<-result
		if err := l.listenWithoutPrivilege(); err == nil {
			t.Fatal("listens without privilege")
		}
	}
	round()
	filesBefore, goroutinesBefore := files(), runtime.NumGoroutine()
	for range 20 {
		round()
	}
	if n := files(); n > filesBefore {
		t.Errorf("%d file descriptors, %d before", n, filesBefore)
	}
	lab.Await(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutinesBefore })
}

// TestListenToAll checks that a monitor without a configuration receives every
// commit, and nothing else.
func TestListenToAll(t *testing.T) {
	l := newLab(t)
	var m *Monitor
	var err error
	l.host.Do(func() { m, err = Listen(nil) })
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := l.set("s", IPv4Addr, FlagTimeout, Element{Interval: iv("10.0.0.1")}) // two transactions
	if err := m.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var events []Event
	for len(events) < 2 {
		if events, err = m.Receive(events); err != nil {
			t.Fatal(err)
		}
	}
	for _, ev := range events {
		if ev.Kind != Commit || ev.PortID != l.PortID() {
			t.Errorf("after edits of %v: %+v", s, ev)
		}
	}
}
