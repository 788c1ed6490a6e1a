package fleet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

func newMember(t *testing.T) *Member {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return &Member{URLs: []string{"tls://127.0.0.1:1"}, Host: "web-1", seed: string(seed)}
}

// write has the host belong to the fleet, as joining does.
func (m *Member) write(t *testing.T, state string) {
	t.Helper()
	if err := errors.Join(m.writeKey(state), m.Write(state)); err != nil {
		t.Fatal(err)
	}
}

// TestNoState has the files of a fleet in the working directory of a host that
// knows no state file: they are not its own.
func TestNoState(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	newMember(t).write(t, filepath.Join(dir, "state.jsonl"))
	if m, err := Read(""); m != nil || err != nil {
		t.Errorf("read %+v, %v", m, err)
	}
}

func TestMemberIsKept(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state", "state.jsonl")
	isMember := func(state string) bool {
		t.Helper()
		member, err := IsMember(state)
		if err != nil {
			t.Error(err)
		}
		return member
	}
	if m, err := Read(state); m != nil || err != nil || isMember(state) || isMember("") {
		t.Errorf("without a file: %v, %v", m, err)
	}
	m := newMember(t)
	m.write(t, state)
	got, err := ReadWithKey(state)
	if err != nil || !isMember(state) || got.Host != m.Host || got.seed != m.seed || got.URLs[0] != m.URLs[0] {
		t.Errorf("read back: %+v, %v", got, err)
	}
	for _, name := range []string{memberFile, seedFile} {
		info, err := os.Stat(filepath.Join(filepath.Dir(state), name))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(state), seedFile), []byte("SUA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadWithKey(state); err == nil || strings.Contains(err.Error(), "SUA") {
		t.Errorf("a damaged key: %v", err)
	}
	if m, err := Read(state); m == nil || err != nil {
		t.Errorf("what needs no key: %v, %v", m, err)
	}
	if err := Remove(state); err != nil || isMember(state) {
		t.Errorf("removed: %v", err)
	}
}

// TestCredential has systemd hand over the key.
func TestCredential(t *testing.T) {
	dir, credentials := t.TempDir(), filepath.Join(t.TempDir(), "credentials")
	state, kept := filepath.Join(dir, "state.jsonl"), filepath.Join(dir, seedFile)
	m := newMember(t)
	m.write(t, state)
	if err := os.Mkdir(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept, filepath.Join(credentials, seedFile)); err != nil {
		t.Fatal(err)
	}
	if m, err := ReadWithKey(state); err == nil {
		t.Errorf("without a key: %+v", m)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if got, err := ReadWithKey(state); err != nil || got.seed != m.seed {
		t.Errorf("handed over: %+v, %v", got, err)
	}
	again := newMember(t)
	again.write(t, state)
	if got, err := ReadWithKey(state); err != nil || got.seed != again.seed {
		t.Errorf("joined again: %+v, %v", got, err)
	}
}

// TestQueue has the oldest give way, and what waits outlast the program, but not
// the membership.
func TestQueue(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state.jsonl")
	config := Config{Member: newMember(t), State: state, Warn: func(what string, args ...any) { t.Error(what, args) }}
	config.write(t, state)
	c := New(config)
	share := func(i int) bool {
		source := netip.PrefixFrom(netip.AddrFrom4([4]byte{45, 0, byte(i >> 8), byte(i)}), 32)
		return c.Share(wire.Sighting{Source: source, Step: 1, Cause: wire.Scan, At: time.Now()})
	}
	for i := range maxQueued + 3 {
		if !share(i) {
			t.Fatal("not shared")
		}
	}
	for _, source := range []string{"10.0.0.1/32", "203.0.113.0/24", "2001:db8::1/128"} {
		if c.Share(wire.Sighting{Source: netip.MustParsePrefix(source), Step: 1, Cause: wire.Scan, At: time.Now()}) {
			t.Errorf("%s is shared", source)
		}
	}
	if waiting, dropped := c.queue.length(); waiting != maxQueued || dropped != 3 {
		t.Errorf("%d wait, %d were dropped", waiting, dropped)
	}
	first, _ := c.queue.first()
	if want := "45.0.0.3/32"; first.Source.String() != want {
		t.Errorf("the first is %s, want %s", first.Source, want)
	}
	c.queue.done("another", true)
	c.queue.done(first.ID, true)
	if err := c.queue.save(state); err != nil {
		t.Fatal(err)
	}
	c = New(config)
	if waiting, _ := c.queue.length(); waiting != maxQueued-1 {
		t.Errorf("%d wait after all", waiting)
	}
	if s, _ := c.queue.first(); s.Source.String() != "45.0.0.4/32" || s.ID == first.ID || s.At.IsZero() {
		t.Errorf("the first is %+v", s)
	}
	if waiting, _ := New(config).queue.length(); waiting != 0 {
		t.Errorf("%d wait twice", waiting)
	}
	if err := Remove(state); err != nil {
		t.Fatal(err)
	}
	if err := c.queue.save(state); err != nil {
		t.Fatal(err)
	}
	if waiting, _ := New(config).queue.length(); waiting != 0 {
		t.Errorf("%d wait for another fleet", waiting)
	}
}

// TestTakesPart tells a client that can go on from one that cannot.
func TestTakesPart(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state.jsonl")
	m := newMember(t)
	c := New(Config{Member: m, State: state, MaxBan: time.Hour})
	again, off, other := *m, *m, *newMember(t)
	off.Off = true
	for name, got := range map[string]bool{
		"itself": c.TakesPart(&again, state, time.Hour), "off": !c.TakesPart(&off, state, time.Hour), "another key": !c.TakesPart(&other, state, time.Hour),
		"no fleet": !c.TakesPart(nil, state, time.Hour), "another state": !c.TakesPart(m, state+"2", time.Hour), "shorter bans": !c.TakesPart(m, state, time.Minute),
	} {
		if !got {
			t.Error(name)
		}
	}
}

// TestProtected looks around on a host with a gateway and connections.
func TestProtected(t *testing.T) {
	t.Parallel()
	host, outside := netnstest.NewHost(t, "host"), netnstest.NewHost(t, "outside")
	link := netnstest.Connect(t, outside, host, "192.0.2.0/24", "2001:db8:5::/64")
	host.DefaultVia(link.A.IPv4)
	outside.AddAddr("lo", "198.51.100.7/32")
	outside.AddAddr("lo", "198.51.100.8/32")
	server, back := outside.Listen("tcp", "198.51.100.7:443"), host.Listen("tcp", "[::]:80")
	out, err := host.Dial("tcp", netip.Addr{}, server.Addr(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := outside.Dial("tcp", netip.MustParseAddr("198.51.100.8"), netip.AddrPortFrom(link.B.IPv4, back.Addr().Port()), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var got protected
	host.Do(func() { got, err = lookAround([]netip.Addr{netip.MustParseAddr("2001:db8:9::9")}) })
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		link.B.IPv4.String() + "/32": "own address", link.A.IPv4.String() + "/32": "gateway", "2001:db8:5::/64": "own address",
		"2001:db8:9::/64": "hub", "198.51.100.7/32": "connected", "198.51.100.8/32": "", "203.0.113.7/32": "",
	} {
		if why := got[netip.MustParsePrefix(source)]; why != want {
			t.Errorf("%s is protected as %q, want %q", source, why, want)
		}
	}
}

// TestComment has as many reports as the kernel has room for.
func TestComment(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 15, 4, 5, 0, time.UTC)
	b := &wire.Ban{Hosts: 12}
	for i := range wire.MaxBy {
		b.By = append(b.By, wire.Report{Host: fmt.Sprintf("web-%d", i), At: at.Add(time.Duration(i) * time.Minute), Cause: wire.Trap, Proto: 6, Port: 23})
	}
	b.By[6].Port, b.By[6].Proto = 0, 0
	got := comment(b)
	if want := "12 hosts: web-7 trap tcp/23 2026-11-28 15:11, web-6 trap 2026-11-28 15:10, "; !strings.HasPrefix(got, want) || len(got) > maxComment {
		t.Errorf("the comment is %q, of %d bytes", got, len(got))
	}
}
