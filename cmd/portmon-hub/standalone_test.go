package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// standAlone is a NATS server that reads its users from a file, as
// `portmon-hub users` prints them.
type standAlone struct {
	conf   string
	tls    *tls.Config
	server *server.Server
}

// forBoth runs a test with the server in the hub, and with one beside it.
func forBoth(t *testing.T, test func(*testing.T, *lab)) {
	t.Run("embedded", func(t *testing.T) { test(t, newLab(t)) })
	t.Run("stand-alone", func(t *testing.T) { test(t, newStandAlone(t)) })
}

func newStandAlone(t *testing.T) *lab {
	t.Helper()
	t.Parallel()
	l := &lab{t: t, dir: filepath.Join(t.TempDir(), "hub")}
	port := freePort(t)
	l.url = "tls://127.0.0.1:" + port
	l.command("init", "--url", l.url)
	config, err := serverTLS(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&cli{dir: l.dir}).load()
	if err != nil {
		t.Fatal(err)
	}
	l.set(`nats = "`+l.url+`"`, `pin = "`+c.Pin+`"`, `page = "127.0.0.1:`+freePort(t)+`"`)
	l.own = &standAlone{conf: filepath.Join(t.TempDir(), "nats-server.conf"), tls: config}
	users := l.command("users", "--first")
	head := "listen: 127.0.0.1:" + port + "\njetstream { store_dir: " + filepath.Join(t.TempDir(), "store") + " }\n"
	options := l.own.options(t, head+users)
	if l.own.server, err = server.NewServer(options); err != nil {
		t.Fatal(err)
	}
	l.own.server.Start()
	t.Cleanup(func() { l.own.server.Shutdown(); l.own.server.WaitForShutdown() })
	if !l.own.server.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	l.start()
	return l
}

func (s *standAlone) options(t *testing.T, text string) *server.Options {
	t.Helper()
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(s.conf)
	if err != nil {
		t.Fatal(err)
	}
	// As tls { cert_file, key_file } would have it.
	o.TLSConfig, o.TLS, o.TLSTimeout, o.NoSigs, o.NoLog = s.tls, true, 5, true, true
	o.AuthTimeout = (5 * time.Second).Seconds()
	return o
}

// reload has the server read other users.
func (s *standAlone) reload(t *testing.T, users string) {
	t.Helper()
	text, err := os.ReadFile(s.conf)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "authorization {")
	if err := s.server.ReloadOptions(s.options(t, head+users)); err != nil {
		t.Fatal(err)
	}
}
