package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/portmon/portmon/cmd/portmon-hub/judge"
	"github.com/portmon/portmon/internal/fleet/wire"
)

// exampleHub is a hub of so many hosts, one of whom is quarantined if there are
// two, and with 40 bans for each.
func exampleHub(hosts int) *hub {
	h := newHub(&cli{ui: newUI(io.Discard, io.Discard)}, &config{judge: judge.Default()}, &fleet{nc: new(nats.Conn)}, nil)
	now := time.Now()
	var by []wire.Report
	for i := range hosts {
		name := fmt.Sprintf("web-%d", i)
		if hosts > 3 {
			name += strings.Repeat("-x", (63-len(name))/2)
		}
		k := &known{heard: now.Add(-time.Duration(i) * time.Second), said: i * 1000, hello: wire.Hello{Bans: hosts * 40, Queued: i % 3, Observe: i%7 == 6}}
		k.Standing, k.Since = wire.Member, now.Add(-time.Hour)
		if i == 1 {
			k.Standing, k.Reason = wire.Quarantined, "reported more than 1000 sources in 24 hours, its quota"
		}
		h.hosts[name] = k
		by = append(by, wire.Report{Host: name, At: now, Cause: wire.Trap, Proto: 6, Port: 23})
	}
	for i := range hosts * 40 {
		b := wire.Ban{Source: source(i), Step: 1 + i%3, Length: 3600, Hosts: hosts, By: by[:min(len(by), wire.MaxBy)], First: now, Last: now.Add(-time.Duration(i) * time.Second / 20)}
		h.bans[b.Source] = b
	}
	return h
}

func get(t *testing.T, handler http.Handler, r *http.Request) (int, string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

func TestPage(t *testing.T) {
	t.Parallel()
	for hosts, words := range map[int][]string{
		0:   {"No host yet", "Nobody is banned"},
		3:   {"web-0", "quarantined", "its quota", "45.0.0.0", "trap tcp/23", "120 bans in force", "The latest 100 of 120."},
		500: {"web-499-x", "The latest 100 of", "and 497 more"},
		600: {"lists 100 more"},
	} {
		pages := exampleHub(hosts).pages("secret")
		code, body, head := get(t, pages, httptest.NewRequest("GET", "http://127.0.0.1:9421/", nil))
		if code != http.StatusOK || len(body) > 150_000 || strings.Contains(body, "<script") || !strings.HasPrefix(head.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%d hosts: code %d, %d bytes, %v", hosts, code, len(body), head)
		}
		for _, word := range words {
			if !strings.Contains(body, word) {
				t.Errorf("%d hosts: no %q in\n%s", hosts, word, body)
			}
		}
		if folder := os.Getenv("PORTMON_PAGES"); folder != "" { // to be looked at in a browser
			body = strings.Replace(body, `href="/page.css"`, `href="page.css"`, 1)
			for name, data := range map[string][]byte{fmt.Sprintf("page-%d.html", hosts): []byte(body), "page.css": pageStyle} {
				if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// Foreign text does not become a part of the page.
func TestPageEscapes(t *testing.T) {
	t.Parallel()
	h := exampleHub(2)
	for _, k := range h.hosts {
		k.Standing, k.Reason = wire.Quarantined, `<img src=x onerror=alert(1)>`
	}
	if _, body, _ := get(t, h.pages("secret"), httptest.NewRequest("GET", "http://localhost/", nil)); strings.Contains(body, "<img") || !strings.Contains(body, "&lt;img") {
		t.Error(body)
	}
}

// Other sites can neither read the page nor use its form, and nobody can without
// the token.
func TestPageGuarded(t *testing.T) {
	t.Parallel()
	pages := exampleHub(3).pages("secret\n")
	form := func(token string) *http.Request {
		r := httptest.NewRequest("POST", "http://127.0.0.1:9421/", strings.NewReader(url.Values{"host": {"nobody"}, "action": {"revoke"}, "token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	}
	cross := form("secret")
	cross.Header.Set("Sec-Fetch-Site", "cross-site")
	for what, test := range map[string]struct {
		r    *http.Request
		want int
	}{
		"another name": {httptest.NewRequest("GET", "http://evil.example/", nil), http.StatusMisdirectedRequest},
		"another site": {cross, http.StatusForbidden},
		"another path": {httptest.NewRequest("GET", "http://127.0.0.1/x", nil), http.StatusNotFound},
		"metrics":      {httptest.NewRequest("GET", "http://[::1]:9421/metrics", nil), http.StatusOK},
		"no such host": {form("secret"), http.StatusBadRequest},
	} {
		if code, body, _ := get(t, pages, test.r); code != test.want {
			t.Errorf("%s: code %d: %s", what, code, body)
		}
	}
	if code, _, _ := get(t, pages, form("wrong")); code != http.StatusForbidden {
		t.Errorf("a wrong token: code %d", code)
	}
	if code, _, _ := get(t, pages, form("secret")); code != http.StatusForbidden {
		t.Errorf("at once after a wrong token: code %d", code)
	}
}

// The page of a running hub revokes a host.
func TestPageRevokes(t *testing.T) {
	l := newLab(t)
	l.join("a").hello()
	token, err := os.ReadFile(filepath.Join(l.dir, tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&cli{dir: l.dir}).load()
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.PostForm("http://"+c.Page, url.Values{"host": {"a"}, "action": {"revoke"}, "token": {string(token)}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	if out := l.command("hosts"); r.StatusCode != http.StatusOK || !strings.Contains(out, "revoked") || !strings.Contains(string(body), "revoked") {
		t.Errorf("code %d: %s", r.StatusCode, out)
	}
	m, err := http.Get("http://" + c.Page + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Body.Close()
	if text, _ := io.ReadAll(m.Body); !strings.Contains(string(text), `portmon_hub_hosts{standing="revoked"} 1`) || !strings.Contains(string(text), "portmon_hub_connected 1") ||
		strings.Contains(string(text), "portmon_hub_host_heard_timestamp_seconds{") { // the alert for an absent host would fire
		t.Errorf("%s", text)
	}
}

// A hub takes the key of its certificate, and the token of the page, from systemd
// if they are not in its folder.
func TestSecretsBySystemd(t *testing.T) {
	l := prepareLab(t)
	credentials := t.TempDir()
	for _, name := range []string{caKeyFile, tokenFile} {
		if err := os.Rename(filepath.Join(l.dir, name), filepath.Join(credentials, name)); err != nil {
			t.Fatal(err)
		}
	}
	l.within = []string{"env", "CREDENTIALS_DIRECTORY=" + credentials}
	l.start()
	l.join("a")
}
