package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// standAlone is NATS servers, alone or as a cluster, that read their users from a
// file, as `portmon-hub users` prints them.
type standAlone struct {
	dir     string   // of their configurations
	heads   []string // of those, before the users
	tls     *tls.Config
	servers []*server.Server
}

// forAll runs a test with the server in the hub, with one beside it, and with a
// cluster of three.
func forAll(t *testing.T, test func(*testing.T, *lab)) {
	t.Run("embedded", func(t *testing.T) { test(t, newLab(t)) })
	t.Run("stand-alone", func(t *testing.T) { test(t, newStandAlone(t, 1)) })
	t.Run("cluster", func(t *testing.T) { test(t, newStandAlone(t, 3)) })
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
			// Clients know no server but those that they are told of.
			head += fmt.Sprintf("cluster { name: fleet, no_advertise: true, listen: 127.0.0.1:%s, routes: [nats://127.0.0.1:%s] }\n",
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

// proxy is a way to a server that can be cut.
type proxy struct {
	net.Listener
	to    string
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to}
	t.Cleanup(func() { p.pass(false); l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			p.mu.Lock()
			if err != nil || p.cut {
				in.Close()
			} else {
				p.conns = append(p.conns, in, out)
				go io.Copy(in, out)
				go io.Copy(out, in)
			}
			p.mu.Unlock()
		}
	}()
	return p
}

// pass lets connections through, or ends them and lets none through.
func (p *proxy) pass(through bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = !through
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// another starts another hub of the same fleet.
func (l *lab) another(settings ...string) *lab {
	l.t.Helper()
	other := &lab{t: l.t, dir: filepath.Join(l.t.TempDir(), "hub"), url: l.url, own: l.own}
	if err := os.CopyFS(other.dir, os.DirFS(l.dir)); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Chmod(other.dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	other.set(append(settings, `page = "127.0.0.1:`+freePort(l.t)+`"`)...)
	other.start()
	return other
}

// Three hubs on a cluster of three say each thing once, agree after one of them was
// cut off, and go on without two of them, and without one of the servers.
func TestCluster(t *testing.T) {
	l := newStandAlone(t, 3)
	way := newProxy(t, strings.TrimPrefix(l.url, "tls://"))
	second, third := l.another(`nats = "tls://`+way.Addr().String()+`"`), l.another()
	a, b := l.join("a"), l.join("b")
	w := b.watch()
	bans := 0
	see := func(n int) {
		for range n {
			a.seeSoon(source(bans))
			bans++
		}
	}
	all := func() bool { return w.inForce() == bans }
	see(50)
	w.wait("bans", all)
	if answer := b.hello(); answer.Hosts != 2 {
		t.Errorf("%+v", answer)
	}
	way.pass(false)
	second.waitLog("the connection to the server is lost")
	see(10)
	w.wait("bans while a hub is cut off", all)
	l.kill()
	third.kill()
	see(10) // while no hub can decide
	way.pass(true)
	w.wait("bans by the hub that was cut off", all)
	third.start()
	for _, hub := range []*lab{second, third} {
		for deadline := time.Now().Add(patience); !strings.Contains(hub.page("/metrics"), fmt.Sprintf("\nportmon_hub_bans %d\n", bans)); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("a hub does not know %d bans:\n%s", bans, hub.page("/metrics"))
			}
		}
	}
	if s := l.stored(); int(s.Msgs) != bans || int(s.LastSeq) != bans {
		t.Errorf("%d bans are %+v", bans, s)
	}
	l.own.servers[2].Shutdown()
	l.own.servers[2].WaitForShutdown()
	see(1)
	late := b.watch()
	late.wait("a ban without one of three servers", func() bool { return late.inForce() == bans })
}
