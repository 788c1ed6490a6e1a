package control

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/state"
)

var offender = netip.MustParsePrefix("198.51.100.7/32")

// questions are all that can be asked, and how an error says so.
var questions = map[string]func(*Client) error{
	"ask the watcher how it is":               func(c *Client) error { _, err := c.Status(); return err },
	"ask the watcher what it remembers":       func(c *Client) error { _, _, err := c.Records(); return err },
	"have the watcher save":                   func(c *Client) error { return c.Save() },
	"have the watcher forgive":                func(c *Client) error { _, err := c.Forgive([]netip.Prefix{offender}); return err },
	"have the watcher read its configuration": func(c *Client) error { return c.Reload() },
}

// answers are those questions that have an answer but for "done".
var answers = []string{"ask the watcher how it is", "ask the watcher what it remembers", "have the watcher forgive"}

// pretend has somebody answer connections who is no watcher, and returns a client of theirs that has not much patience.
func pretend(t *testing.T, serve func(net.Conn)) *Client {
	t.Helper()
	path := filepath.Join(folder(t), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, client := range []http.Client{c.questions, c.orders} {
		if client.Timeout <= 0 || client.Timeout > time.Minute {
			t.Fatalf("a client waits for %v", client.Timeout)
		}
	}
	return c
}

// Who asks does not wait long for a watcher that hangs.
func TestSilence(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	c := pretend(t, func(conn net.Conn) { <-hang; conn.Close() })
	transport := c.questions.Transport.(*http.Transport)
	if d := transport.ResponseHeaderTimeout; d <= 0 || d > 10*time.Second {
		t.Errorf("a question waits for %v", d)
	}
	transport.ResponseHeaderTimeout = 20 * time.Millisecond
	for _, what := range []string{"ask the watcher how it is", "ask the watcher what it remembers"} {
		if err := questions[what](c); err == nil || !strings.Contains(err.Error(), "timeout awaiting") {
			t.Errorf("%s: got error %v", what, err)
		}
	}
}

// heard reads a request.
func heard(conn net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err == nil {
		io.Copy(io.Discard, req.Body)
	}
}

// says returns a server that says this to any request, and hangs up.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		defer conn.Close()
		heard(conn)
		io.WriteString(conn, text)
	}
}

func body(text string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
}

func TestNoWatcher(t *testing.T) {
	var whole strings.Builder
	recs := make([]state.Record, 100)
	for i := range recs {
		src := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 32)
		recs[i] = state.Record{Prefix: src, Offences: 1}
	}
	if err := state.Send(&whole, state.Header{Saved: state.Clock()}, slices.Values(recs)); err != nil {
		t.Fatal(err)
	}
	half := whole.String()[:whole.Len()/2]
	cut := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", whole.Len(), half)
	lines := half[:strings.LastIndex(half, "\n")+1]
	_, headless, _ := strings.Cut(whole.String(), "\n")
	altered := strings.Replace(whole.String(), "198.18.0.9/", "198.18.1.9/", 1)
	endless := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 12<<20) + "\r\n\r\n"
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	pauses := func(after string) func(net.Conn) {
		return func(conn net.Conn) {
			defer conn.Close()
			heard(conn)
			io.WriteString(conn, after)
			<-hang
		}
	}
	const records = "ask the watcher what it remembers"
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		asked []string // all if nil
		want  string   // part of the error
	}{
		"hangs":                     {serve: pauses(""), want: "imeout"},
		"hangs in its answer":       {pauses("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), answers, "imeout"},
		"hangs in the records":      {pauses("HTTP/1.1 200 OK\r\n\r\n" + lines), []string{records}, "imeout"},
		"hangs up":                  {serve: func(conn net.Conn) { conn.Close() }},
		"says nothing":              {serve: says(""), want: "EOF"},
		"garbage":                   {serve: says("SSH-2.0-OpenSSH_9.2\r\n"), want: "malformed"},
		"endless headers":           {says(endless), []string{"have the watcher save"}, "exceeded"},
		"another service":           {says(body("<html>")), answers, ""},
		"no answer":                 {says(body("")), answers, "EOF"},
		"cut answer":                {says("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n[\"198.51.100"), answers, ""},
		"not found":                 {serve: says("HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\nno such thing\n"), want: ": no such thing"},
		"half of the records":       {says(body(half)), []string{records}, "state of the watcher is"},
		"some of the records":       {says(body(lines)), []string{records}, "state of the watcher is"},
		"records that are cut":      {says(cut), []string{records}, "unexpected EOF"},
		"records without an origin": {says(body(headless)), []string{records}, ""},
		"records that were altered": {says(body(altered)), []string{records}, "state of the watcher is"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, ask := range questions {
				if tt.asked != nil && !slices.Contains(tt.asked, what) {
					continue
				}
				c := pretend(t, tt.serve)
				if tt.want == "imeout" {
					c.orders.Timeout, c.questions.Timeout = 50*time.Millisecond, 50*time.Millisecond
				}
				err := ask(c)
				if err == nil {
					t.Errorf("%s: no error", what)
					continue
				}
				text := err.Error()
				if !strings.HasPrefix(text, what+": ") || !strings.Contains(text, tt.want) || strings.Contains(text, "http://") {
					t.Errorf("got %q, want it to begin with %q and to have %q", text, what, tt.want)
				}
			}
		})
	}
	h, recs2, err := pretend(t, says(body(whole.String()))).Records()
	if err != nil || len(recs2) != len(recs) || h.Saved.Wall.IsZero() {
		t.Errorf("all of the records: %d, error %v", len(recs2), err)
	}
}
