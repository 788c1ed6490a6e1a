package control

import (
	"bufio"
	"errors"
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

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/ruleset"
)

var offender = netip.MustParsePrefix("198.51.100.7/32")

// questions are all that can be asked, and how an error says so.
var questions = map[string]func(*Client) error{
	"ask the watcher for its status":          func(c *Client) error { _, err := c.Status(); return err },
	"ask the watcher what it remembers":       func(c *Client) error { _, err := c.Book(0); return err },
	"have the watcher save":                   (*Client).Save,
	"have the watcher forget":                 func(c *Client) error { _, err := c.Unbanned(false, offender); return err },
	"have the watcher read its configuration": func(c *Client) error { return c.Reload(&ruleset.Spec{}) },
	"tell the watcher of the change":          (*Client).Applying,
	"tell the watcher of the removal":         (*Client).Removing,
}

// answers are those questions that have an answer but for "done".
var answers = []string{"ask the watcher for its status", "ask the watcher what it remembers", "have the watcher forget"}

// pretend has somebody answer connections who is no watcher, and returns a
// client of theirs that has not much patience.
func pretend(t *testing.T, serve func(net.Conn)) *Client {
	t.Helper()
	path := filepath.Join(lab.ShortDir(t), "sock")
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
	return c
}

// TestHungWatcher shows that no command waits for long for a watcher that takes
// connections and does not answer.
func TestHungWatcher(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	c := pretend(t, func(conn net.Conn) { <-hang; conn.Close() })
	if _, err := c.Status(); err == nil || !strings.Contains(err.Error(), "no answer within 2s") {
		t.Errorf("got error %v", err)
	}
	if c.longer > 10*time.Second {
		t.Errorf("some answers may take %v", c.longer)
	}
}

// readRequest reads a request.
func readRequest(conn net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err == nil {
		io.Copy(io.Discard, req.Body)
	}
}

// says returns a server that says this to any request, and hangs up.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		defer conn.Close()
		readRequest(conn)
		io.WriteString(conn, text)
	}
}

// TestWatcherEnds has the watcher end before it answers somebody who follows its
// events, and between two of them.
func TestWatcherEnds(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){
		"before the request is read": func(conn net.Conn) { conn.Close() },
		"before it is answered":      says(""),
		"between two events":         says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n"),
	} {
		err := pretend(t, serve).Events(t.Context(), 0, true, func([]byte) error { return nil })
		if !errors.Is(err, ErrEnded) {
			t.Errorf("%s: error %v, want %v", name, err, ErrEnded)
		}
	}
}

func body(text string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
}

func TestNoWatcher(t *testing.T) {
	t.Parallel()
	var whole strings.Builder
	rows := make([]book.Row, 100)
	for i := range rows {
		src := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 32)
		rows[i] = book.Row{Source: src, Banned: true}
	}
	if err := book.Encode(&whole, book.Here(0), book.ReadClock(), slices.Values(rows)); err != nil {
		t.Fatal(err)
	}
	half := whole.String()[:whole.Len()/2]
	cut := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", whole.Len(), half)
	lines := half[:strings.LastIndex(half, "\n")+1]
	altered := strings.Replace(whole.String(), "198.18.0.9/", "198.18.0.x/", 1)
	endless := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 12<<20) + "\r\n\r\n"
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	pauses := func(after string) func(net.Conn) {
		return func(conn net.Conn) {
			defer conn.Close()
			readRequest(conn)
			io.WriteString(conn, after)
			<-hang
		}
	}
	const remembered = "ask the watcher what it remembers"
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		asked []string // all if nil
		want  string   // part of the error
	}{
		"hangs":               {serve: pauses(""), want: "no answer"},
		"hangs in its answer": {pauses("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), answers, "no answer"},
		"hangs in the rows":   {pauses("HTTP/1.1 200 OK\r\n\r\n" + lines), []string{remembered}, "no answer"},
		"hangs up":            {serve: func(conn net.Conn) { conn.Close() }},
		"says nothing":        {serve: says(""), want: "EOF"},
		"garbage":             {serve: says("SSH-2.0-OpenSSH_9.2\r\n"), want: "malformed"},
		"endless headers":     {says(endless), []string{"have the watcher save"}, "exceeded"},
		"another service":     {says(body("<html>")), answers, ""},
		"no answer":           {says(body("")), answers, ""},
		"cut answer":          {says("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n[\"198.51.100"), answers, ""},
		"not found":           {serve: says("HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\nno such thing\n"), want: ": no such thing"},
		"half a row":          {says(body(half)), []string{remembered}, "damaged"},
		"rows that are cut":   {says(cut), []string{remembered}, "unexpected EOF"},
		"rows with a fault":   {says(body(altered)), []string{remembered}, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, ask := range questions {
				if tt.asked != nil && !slices.Contains(tt.asked, what) {
					continue
				}
				c := pretend(t, tt.serve)
				c.patience, c.longer = lab.Patience, lab.Patience
				if tt.want == "no answer" {
					c.patience, c.longer = 50*time.Millisecond, 50*time.Millisecond
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
	c := pretend(t, says(body(whole.String())))
	c.patience = lab.Patience
	b, err := c.Book(0)
	if err != nil || b.Len() != len(rows) {
		t.Errorf("all of the rows: %d, error %v", b.Len(), err)
	}
}

// TestBookIsBounded has one who poses as the watcher feed rows without end.
func TestBookIsBounded(t *testing.T) {
	t.Parallel()
	const rows = 100
	c := pretend(t, func(conn net.Conn) {
		defer conn.Close()
		readRequest(conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		book.Encode(conn, book.Here(0), book.ReadClock(), func(yield func(book.Row) bool) {
			for n := uint32(0); yield(book.Row{Source: source(n), Banned: true}) && n < 1<<17; n++ {
			}
		})
	})
	c.patience, c.longer = lab.Patience, lab.Patience
	if b, err := c.Book(rows); err == nil && b.Len() > rows {
		t.Errorf("%d rows were taken", b.Len())
	}
}

// source returns one of many.
func source(n uint32) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}
