package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/lab/dnslab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// evilHub is a hub that bans whatever it likes.
type evilHub struct {
	*client
	inlet string
}

func (i *internet) evil(token *wire.Token) *evilHub {
	i.t.Helper()
	seed, err := os.ReadFile(filepath.Join(i.dir, seedFile))
	if err != nil {
		i.t.Fatal(err)
	}
	hub := &client{t: i.t, name: "hub", token: token}
	if hub.key, err = nkeys.FromSeed(bytes.TrimSpace(seed)); err != nil {
		i.t.Fatal(err)
	}
	i.connects(hub)
	bans, err := hub.js.Stream(i.t.Context(), wire.Bans)
	if err != nil {
		i.t.Fatal(err)
	}
	return &evilHub{hub, strings.TrimSuffix(bans.CachedInfo().Config.Subjects[0], "*")}
}

// publish puts a message into the stream of bans, whatever it says.
func (h *evilHub) publish(key, data string) {
	h.t.Helper()
	if _, err := h.js.PublishMsg(h.t.Context(), &nats.Msg{Subject: h.inlet + key, Data: []byte(data)}, jetstream.WithRetryAttempts(5)); err != nil {
		h.t.Fatalf("publish %q: %v", key, err)
	}
}

func banOf(source string, now time.Time) string {
	return fmt.Sprintf(`{"source":%q,"step":1,"length":3600,"hosts":1,"by":[{"host":"web-9","at":%[2]q,"cause":"trap","proto":6,"port":23}],"first":%[2]q,"last":%[2]q}`,
		source, now.UTC().Format(time.RFC3339))
}

func (h *evilHub) ban(sources ...string) {
	h.t.Helper()
	for _, s := range sources {
		h.publish(wire.Key(netip.MustParsePrefix(s)), banOf(s, time.Now()))
	}
}

// TestReceiver has a hub ban what the host needs, and what is no ban. Nothing of
// that is put, and all beside it is.
func TestReceiver(t *testing.T) {
	i := newInternet(t)
	for _, a := range []string{"203.0.113.90/32", "2001:db8:90::1/128", "2001:db8:1::1/128"} {
		i.host.AddAddr("lo", a)
	}
	host := netnstest.NewHost(t, "receiver")
	link := netnstest.Connect(t, i.host, host, "192.0.2.128/28", "2001:db8:2::/64")
	host.DefaultVia(link.A.IPv4, link.A.IPv6)
	dir, err := os.MkdirTemp("", "fleet") // as the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &watched{t: t, host: host, address: link.B.IPv4, config: filepath.Join(dir, "portmon.toml")}
	config := fmt.Sprintf("whitelist = [\"203.0.113.64/28\", \"198.51.100.99\", \"2001:db8:77::/64\", \"2001:db8:7800::/40\"]\n[trap]\ngrace = 0\n[watch]\nstate = %q\n",
		filepath.Join(dir, "state.jsonl"))
	if err := os.WriteFile(w.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if w.conn, err = nftset.Dial(&nftset.Config{NetNS: host.FD()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close() })
	w.portmon("", "apply")
	w.portmon("", "allow", "203.0.113.80", "2001:db8:80::/64", "--for", "8h")
	for _, server := range []string{"203.0.113.90:443", "[2001:db8:90::1]:443"} {
		s := i.host.Listen("tcp", server)
		conn, err := host.Dial("tcp", netip.Addr{}, s.Addr(), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	program, err := portmonProgram()
	if err != nil {
		t.Fatal(err)
	}
	log := &output{more: make(chan struct{}, 1)}
	watcher := exec.Command(program, "watch", "--config", w.config)
	watcher.Stderr = log
	resolvers := dnslab.Resolv(netip.MustParseAddr("203.0.113.53"), netip.MustParseAddr("2001:db8:53::53"))
	dnslab.Within(t, host, map[string]string{"/etc/resolv.conf": resolvers}, func() { err = watcher.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = watcher.Process.Kill()
		_ = watcher.Wait()
		if t.Failed() {
			t.Logf("the watcher said:\n%s", log)
		}
	})
	says := func(text string) {
		t.Helper()
		for deadline := time.After(time.Minute); !strings.Contains(log.String(), text); {
			select {
			case <-log.more:
			case <-deadline:
				t.Fatalf("the watcher does not say %q", text)
			}
		}
	}
	says("msg=watching")
	// The host knows the hub by an address of each family.
	token, err := wire.ParseToken(i.invite("web-1"))
	if err != nil {
		t.Fatal(err)
	}
	token.URLs = append(token.URLs, "tls://[2001:db8:1::1]:4222")
	w.portmon(token.String(), "fleet", "join", "-")

	hub := i.evil(token)
	refused := map[string]string{
		link.A.IPv4.String() + "/32": "gateway", "203.0.113.53/32": "resolver", hubAddress + "/32": "hub", link.B.IPv4.String() + "/32": "own address",
		"203.0.113.64/32": "whitelisted", "203.0.113.79/32": "whitelisted", "198.51.100.99/32": "whitelisted",
		"203.0.113.80/32": "allowed", "203.0.113.90/32": "connected",
		"2001:db8:2::/64": "own address", "2001:db8:53::/64": "resolver", "2001:db8:1::/64": "hub", "2001:db8:77::/64": "whitelisted",
		"2001:db8:78ab:cd::/64": "whitelisted", "2001:db8:80::/64": "allowed", "2001:db8:90::/64": "connected",
	}
	beside := []string{
		"192.0.2.143/32", "203.0.113.52/32", "198.51.100.2/32", "192.0.2.140/32", "203.0.113.63/32", "198.51.100.98/32", "203.0.113.81/32", "203.0.113.91/32",
		"2001:db8:2:1::/64", "2001:db8:53:1::/64", "2001:db8:1:1::/64", "2001:db8:77:1::/64", "2001:db8:7900::/64", "2001:db8:80:1::/64", "2001:db8:90:1::/64",
	}
	for s := range refused {
		hub.ban(s)
	}
	now := time.Now()
	hub.publish("4-cb007164", banOf("203.0.113.100/31", now))
	hub.publish("6-20010db8aa000000", banOf("2001:db8:aa00::/56", now))
	hub.publish("6-20010db800000000", banOf("2001:db8::/32", now))
	hub.publish("4-00000000", banOf("0.0.0.0/0", now))
	hub.publish("4-7f000001", banOf("127.0.0.1/32", now))
	hub.publish("\x1b[31mred", "\x1b[31m{")
	hub.ban(beside...)
	w.awaitBans(len(beside))
	check := func(beside []string) {
		t.Helper()
		var got, want []string
		for e, err := range w.table().Fleet() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Interval.String())
		}
		for _, s := range beside {
			want = append(want, strings.TrimSuffix(s, "/32"))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the fleet bans\n%s\nwant\n%s", got, want)
		}
	}
	check(beside)

	var status struct {
		Refused  map[string]int
		Refusals []struct{ Source, Reason string }
	}
	if err := json.Unmarshal([]byte(w.portmon("", "fleet", "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if n := status.Refused["not a ban of one source"]; n != 6 {
		t.Errorf("%d messages are no bans, want 6", n)
	}
	got := make(map[string]string)
	for _, r := range status.Refusals {
		got[r.Source] = r.Reason
	}
	for source, why := range refused {
		if got[source] != why {
			t.Errorf("%s is refused as %q, want %q", source, got[source], why)
		}
	}
	if text := w.portmon("", "fleet", "status"); !strings.Contains(text, "refused 1 ban: gateway: "+link.A.IPv4.String()+"\n") || strings.Contains(text, "\x1b[31m") {
		t.Errorf("fleet status says:\n%q", text)
	}
	for _, why := range []string{"gateway", "resolver", "hub", `"own address"`, "whitelisted", "allowed", "connected"} {
		says("reason=" + why)
	}
	says(`reason="not a ban of one source" bans=`)
	if strings.Contains(log.String(), "\x1b") {
		t.Errorf("the journal has an escape:\n%q", log)
	}

	// What is not allowed any more is put at once, and what is allowed for a while
	// after that.
	w.portmon("", "disallow", "203.0.113.80")
	w.awaitBans(len(beside) + 1)
	w.portmon("", "allow", "203.0.113.82", "2001:db8:82::/64", "--for", "2s")
	hub.ban("203.0.113.82/32", "2001:db8:82::/64")
	w.awaitBans(len(beside) + 3)
	check(append(beside, "203.0.113.80/32", "203.0.113.82/32", "2001:db8:82::/64"))

	// A reload changes nothing, and finds what is not whitelisted any more.
	if err := os.WriteFile(w.config, []byte(strings.Replace(config, `"198.51.100.99", `, "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.portmon("", "apply")
	w.awaitBans(len(beside) + 4)
}
