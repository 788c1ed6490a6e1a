package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// portmonProgram builds the host's program, once.
var portmonProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "portmon")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "portmon")
	build := exec.Command("go", "build", "-o", path, "./cmd/portmon")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// internet is a network namespace with a hub in it, in which all sources are, and
// behind which hosts with watchers are.
type internet struct {
	*lab
	host  *netnstest.Host
	hosts int
}

const hubAddress = "198.51.100.1"

func newInternet(t testing.TB, settings ...string) *internet {
	t.Helper()
	parallel(t)
	i := &internet{host: netnstest.NewHost(t, "internet")}
	i.host.AddAddr("lo", hubAddress+"/32")
	i.host.AddAddr("lo", "203.0.113.7/32")
	i.host.Forward()
	i.lab = &lab{t: t, dir: filepath.Join(t.TempDir(), "hub"), url: "tls://" + hubAddress + ":4222"}
	i.command("init", "--url", i.url)
	i.set(append(settings, `page = ""`)...)
	i.host.Do(i.start)
	return i
}

// watched is a host with a table and a watcher.
type watched struct {
	t       testing.TB
	host    *netnstest.Host
	address netip.Addr
	config  string
	conn    *nftset.Conn
	pid     int // of the watcher
}

func (i *internet) newHost(name string) *watched {
	i.t.Helper()
	i.hosts++
	w := &watched{t: i.t, host: netnstest.NewHost(i.t, name), config: filepath.Join(i.t.TempDir(), "portmon.toml")}
	link := netnstest.Connect(i.t, i.host, w.host, fmt.Sprintf("192.0.2.%d/30", 4*i.hosts))
	w.host.DefaultVia(link.A.IPv4)
	w.host.Listen("tcp", "[::]:80")
	w.address = link.B.IPv4
	dir, err := os.MkdirTemp("", "fleet") // as the path of a socket is short
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { os.RemoveAll(dir) })
	config := fmt.Sprintf("[trap]\ngrace = 0\n[watch]\nstate = %q\n", filepath.Join(dir, "state.jsonl"))
	if err := os.WriteFile(w.config, []byte(config), 0o600); err != nil {
		i.t.Fatal(err)
	}
	if w.conn, err = nftset.Dial(&nftset.Config{NetNS: w.host.FD()}); err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { w.conn.Close() })
	w.portmon("", "apply")
	program, err := portmonProgram()
	if err != nil {
		i.t.Fatal(err)
	}
	log := &output{more: make(chan struct{}, 1)}
	watcher := exec.Command(program, "watch", "--config", w.config)
	watcher.Stderr = log
	w.host.Do(func() { err = watcher.Start() })
	if err != nil {
		i.t.Fatal(err)
	}
	w.pid = watcher.Process.Pid
	i.t.Cleanup(func() {
		_ = watcher.Process.Kill()
		_ = watcher.Wait()
		if i.t.Failed() {
			i.t.Logf("the watcher of %s said:\n%s", name, log)
		}
	})
	for deadline := time.After(patience); !strings.Contains(log.String(), "msg=watching"); {
		select {
		case <-log.more:
		case <-deadline:
			i.t.Fatalf("the watcher does not begin:\n%s", log)
		}
	}
	return w
}

// invite returns a token of the hub.
func (i *internet) invite(name string) string {
	i.t.Helper()
	cmd := exec.Command(os.Args[0], "invite", name, "--dir", i.dir)
	cmd.Env = append(os.Environ(), "PORTMON_HUB_TEST=1")
	var token []byte
	var err error
	i.host.Do(func() { token, err = cmd.Output() })
	if err != nil {
		i.t.Fatal("invite: ", err)
	}
	return string(token)
}

// joins has the host join the fleet.
func (i *internet) joins(w *watched, name string) {
	i.t.Helper()
	w.portmon(i.invite(name), "fleet", "join", "-")
}

// portmon runs a command on the host.
func (w *watched) portmon(stdin string, args ...string) string {
	w.t.Helper()
	program, err := portmonProgram()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(program, append(args, "--config", w.config)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	w.host.Do(func() { err = cmd.Run() })
	if err != nil {
		w.t.Fatalf("portmon %v: %v: %s", args, err, &errs)
	}
	return out.String()
}

func (w *watched) table() *ruleset.Handle {
	w.t.Helper()
	h, err := ruleset.Open(w.conn, ruleset.Default().Table)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// awaitBans waits until so many bans of the fleet are in force, and returns for how
// long.
func (w *watched) awaitBans(n int) time.Duration {
	w.t.Helper()
	h, begun := w.table(), time.Now()
	for {
		held, err := h.CountFleet()
		switch {
		case err == nil && held == n:
			return time.Since(begun)
		case time.Since(begun) > patience:
			w.t.Fatalf("%d bans of the fleet are in force, want %d (%v)", held, n, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// want fails the test unless that is the answer to a SYN.
func (i *internet) want(src netip.Addr, w *watched, port uint16, kind netnstest.AnswerKind) {
	i.t.Helper()
	if got := i.host.Probe(netnstest.SYN(src, netip.AddrPortFrom(w.address, port))); got.Kind != kind {
		i.t.Errorf("%s to %s:%d: got answer %v, want %v", src, w.address, port, got, netnstest.Answer{Kind: kind})
	}
}

// TestWatchers has what offends on one host be dropped by the kernel of the other,
// through the end of the hub, and only as long as the host wants.
func TestWatchers(t *testing.T) {
	i := newInternet(t)
	a, b := i.newHost("a"), i.newHost("b")
	i.joins(a, "web-a")
	i.joins(b, "web-b")
	offenders := []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8"), netip.MustParseAddr("203.0.113.9")}
	begun := time.Now()
	i.want(offenders[0], a, 23, netnstest.NoAnswer)
	b.awaitBans(1)
	t.Logf("from the offence to the kernel of the other host: %v", time.Since(begun))
	i.want(offenders[0], b, 80, netnstest.NoAnswer)
	i.want(offenders[1], b, 80, netnstest.AnswerSYNACK)
	if why := b.portmon("", "why", offenders[0].String()); !strings.Contains(why, "by the fleet: 1 host: web-a trap tcp/23 ") {
		t.Errorf("why says:\n%s", why)
	}
	if list := b.portmon("", "list"); !strings.Contains(list, "fleet") {
		t.Errorf("list says:\n%s", list)
	}

	if off := b.portmon("", "fleet", "off"); !strings.Contains(off, "lifted 1 ban") {
		t.Errorf("off says %q", off)
	}
	i.want(offenders[0], b, 80, netnstest.AnswerSYNACK)
	i.want(offenders[0], a, 80, netnstest.NoAnswer)
	b.portmon("", "fleet", "on")
	b.awaitBans(1)

	i.kill()
	i.want(offenders[1], a, 23, netnstest.NoAnswer)
	i.want(offenders[0], b, 80, netnstest.NoAnswer)
	i.want(offenders[1], b, 80, netnstest.AnswerSYNACK)
	i.host.Do(i.start)
	b.awaitBans(2)
	i.want(offenders[1], b, 80, netnstest.NoAnswer)

	// What is whitelisted, a gateway or the hub is never banned; what is banned by
	// hand is shared only if that is said.
	a.portmon("", "ban", "203.0.113.50")
	a.portmon("", "ban", "203.0.113.51", "--fleet")
	b.awaitBans(3)
	a.portmon("", "ban", hubAddress, "--fleet", "--force", "--for", "1s")
	i.want(offenders[2], a, 23, netnstest.NoAnswer)
	b.awaitBans(4)
	if status := b.portmon("", "fleet", "status"); !strings.Contains(status, "refused 1 ban: hub") {
		t.Errorf("fleet status says:\n%s", status)
	}

	b.portmon("", "fleet", "leave")
	i.want(offenders[0], b, 80, netnstest.AnswerSYNACK)
	if b.table().Set("fleet4") != nil {
		t.Error("the table has sets of the fleet")
	}
	b.portmon("", "apply", "--check")
}

// TestJoiningManyBans has a host join a fleet that bans very many.
func TestJoiningManyBans(t *testing.T) {
	const n = 20_000
	i := newInternet(t, "quota = 1048576")
	w := i.newHost("a")
	b, c := i.joinedClient("web-b"), i.joinedClient("web-c")
	for k := range n { // of each host fewer than the stream keeps, should the hub lag behind
		h := []*client{b, c}[k%2]
		_, err := h.js.PublishAsync(wire.SightingPrefix+h.name, sightingOf(source(k)), jetstream.WithStallWait(patience))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []*client{b, c} {
		select {
		case <-h.js.PublishAsyncComplete():
		case <-time.After(patience):
			t.Fatal("the sightings are not stored")
		}
	}
	seed, err := os.ReadFile(filepath.Join(i.dir, seedFile))
	if err != nil {
		t.Fatal(err)
	}
	hub := &client{t: t, name: "hub", token: b.token}
	if hub.key, err = nkeys.FromSeed(bytes.TrimSpace(seed)); err != nil {
		t.Fatal(err)
	}
	i.connects(hub)
	bans, err := hub.js.Stream(t.Context(), wire.Bans)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		info, err := bans.Info(t.Context())
		if err == nil && info.State.Msgs == n {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the hub bans %+v (%v)", info, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	begun := time.Now()
	i.joins(w, "web-a")
	w.awaitBans(n)
	t.Logf("from joining to %d bans in force: %v", n, time.Since(begun))
}

// connects connects a client where the hub is.
func (i *internet) connects(h *client) {
	i.t.Helper()
	var err error
	i.host.Do(func() { err = h.connect() })
	if err != nil {
		i.t.Fatal(err)
	}
}

// joinedClient is [lab.join] for where the hub is.
func (i *internet) joinedClient(name string) *client {
	i.t.Helper()
	token, err := wire.ParseToken(i.invite(name))
	if err != nil {
		i.t.Fatal(err)
	}
	h := &client{t: i.t, name: name, token: token}
	if h.key, err = nkeys.FromSeed([]byte(token.Seed)); err != nil {
		i.t.Fatal(err)
	}
	i.connects(h)
	own, err := nkeys.CreateUser()
	if err != nil {
		i.t.Fatal(err)
	}
	public, _ := own.PublicKey()
	var joined wire.Joined
	if err := h.ask(wire.JoinPrefix+name, &wire.Join{Key: public}, &joined); err != nil || joined.Error != "" {
		i.t.Fatal(err, joined.Error)
	}
	h.nc.Close()
	h.key = own
	i.connects(h)
	return h
}
