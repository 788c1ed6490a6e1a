package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/portmon/portmon/internal/fleet/wire"
)

// standAlone is NATS servers, alone or as a cluster, that read their users from a
// file, as `portmon-hub users` prints them.
type standAlone struct {
	dir     string   // of their configurations
	heads   []string // of those, before the users
	tls     *tls.Config
	servers []*server.Server
}

// forBoth runs a test with the server in the hub, and with one beside it.
func forBoth(t *testing.T, test func(*testing.T, *lab)) {
	t.Run("embedded", func(t *testing.T) { test(t, newLab(t)) })
	t.Run("stand-alone", func(t *testing.T) { test(t, newStandAlone(t, 1)) })
}

// newStandAlone starts a hub with a number of servers.
func newStandAlone(t *testing.T, n int) *lab {
	t.Helper()
	t.Parallel()
	l := &lab{t: t, dir: filepath.Join(t.TempDir(), "hub")}
	ports, routes := make([]string, n), make([]string, n)
	for i := range n {
		ports[i], routes[i] = freePort(t), freePort(t)
	}
	l.url = "tls://127.0.0.1:" + ports[0]
	args := []string{"init"}
	for _, port := range ports {
		args = append(args, "--url", "tls://127.0.0.1:"+port)
	}
	l.command(args...)
	config, err := serverTLS(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&cli{dir: l.dir}).load()
	if err != nil {
		t.Fatal(err)
	}
	l.set(`nats = "`+l.url+`"`, `pin = "`+c.Pin+`"`, `page = "127.0.0.1:`+freePort(t)+`"`, fmt.Sprintf("replicas = %d", n))
	users := l.command("users", "--first")
	l.own = &standAlone{dir: t.TempDir(), tls: config}
	for i := range n {
		head := fmt.Sprintf("listen: 127.0.0.1:%s\nserver_name: n%d\njetstream { store_dir: %q }\n", ports[i], i, t.TempDir())
		if n > 1 {
			head += fmt.Sprintf("cluster { name: fleet, listen: 127.0.0.1:%s, routes: [nats://127.0.0.1:%s] }\n",
				routes[i], strings.Join(routes, ", nats://127.0.0.1:"))
		}
		s, err := server.NewServer(l.own.options(t, i, head+users))
		if err != nil {
			t.Fatal(err)
		}
		l.own.heads, l.own.servers = append(l.own.heads, head), append(l.own.servers, s)
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	}
	for _, s := range l.own.servers {
		if !s.ReadyForConnections(patience) {
			t.Fatal("a server does not start")
		}
	}
	if n > 1 {
		l.own.awaitLeader(t)
	}
	l.start()
	return l
}

// awaitLeader waits until the servers have agreed which of them decides.
func (s *standAlone) awaitLeader(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		for _, one := range s.servers {
			if one.JetStreamIsLeader() && len(one.JetStreamClusterPeers()) == len(s.servers) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the cluster has no leader")
		}
	}
}

func (s *standAlone) options(t testing.TB, i int, text string) *server.Options {
	t.Helper()
	path := filepath.Join(s.dir, fmt.Sprintf("n%d.conf", i))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// As tls { cert_file, key_file } would have it.
	o.TLSConfig, o.TLS, o.TLSTimeout, o.NoSigs, o.NoLog, o.AuthTimeout = s.tls, true, 5, true, true, 5
	return o
}

// reload has the servers read other users.
func (s *standAlone) reload(t testing.TB, users string) {
	t.Helper()
	for i, one := range s.servers {
		if !one.Running() {
			continue
		}
		if err := one.ReloadOptions(s.options(t, i, s.heads[i]+users)); err != nil {
			t.Fatal(err)
		}
	}
}

// Two hubs on a cluster of three say each thing once, and go on without one of
// them, and without one of the servers.
func TestCluster(t *testing.T) {
	l := newStandAlone(t, 3)
	second := &lab{t: t, dir: filepath.Join(t.TempDir(), "hub"), url: l.url, own: l.own}
	if err := os.CopyFS(second.dir, os.DirFS(l.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(second.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	second.set(`page = ""`)
	second.start()
	a, b := l.join("a"), l.join("b")
	w := b.watch()
	for i := range 50 {
		a.see(source(i))
	}
	w.wait("bans", func() bool { return w.inForce() == 50 })
	a.see(source(50))
	w.wait("another ban", func() bool { return w.inForce() == 51 })
	if answer := b.hello(); answer.Hosts != 2 {
		t.Errorf("%+v", answer)
	}
	c, err := (&cli{dir: l.dir}).load()
	if err != nil {
		t.Fatal(err)
	}
	f, err := (&cli{}).connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	stream, err := f.js.Stream(t.Context(), wire.Bans)
	if err != nil {
		t.Fatal(err)
	}
	if info := stream.CachedInfo(); info.State.LastSeq != 51 || len(info.Cluster.Replicas) != 2 {
		t.Errorf("51 bans are %+v at %+v", info.State, info.Cluster)
	}
	l.kill()
	a.see(source(51))
	w.wait("a ban by the second hub", func() bool { return w.inForce() == 52 })
	l.own.servers[2].Shutdown()
	l.own.servers[2].WaitForShutdown()
	a.seeSoon(source(52))
	late := b.watchSoon()
	late.wait("a ban without one of three servers", func() bool { return late.inForce() == 53 })
}
