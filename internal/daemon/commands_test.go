package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

func prefixOf(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked()
	}
	return netip.PrefixFrom(a, 32)
}

// put has the table get records, as commands do.
func (l *fixture) put(records ...ruleset.Record) {
	l.T.Helper()
	h, err := ruleset.Open(l.Conn, ruleset.Default().Table)
	if err == nil {
		_, err = h.Put(records)
	}
	if err != nil {
		l.T.Fatal(err)
	}
}

func TestBook(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	if n := p.book().Len(); n != 0 {
		t.Errorf("nobody has offended: %d rows", n)
	}
	l.Offend(offender, offender6)
	byHand := netip.MustParsePrefix("203.0.113.0/24")
	l.put(ruleset.Record{Source: byHand, Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: ruleset.CauseHand, Comment: "by \"me\"\n"})
	p.awaitRows(3, 2)
	src, src6, stranger := prefixOf(offender), prefixOf(offender6), netip.MustParsePrefix("203.0.113.9/32")
	trapped := func(src netip.Prefix) book.Row {
		return book.Row{
			Source: src, Banned: true, Step: 1, Timeout: 8 * time.Hour, Cause: ruleset.CauseTrap, Offences: 1, Proto: unix.IPPROTO_TCP, Port: lab.TrapTCP,
		}
	}
	want := map[netip.Prefix]book.Row{
		src: trapped(src), src6: trapped(src6),
		byHand: {Source: byHand, Banned: true, Timeout: time.Hour, ByHand: true, Cause: ruleset.CauseHand, Comment: "by \"me\"\n"},
	}
	for name, of := range map[string][]netip.Prefix{
		"all": nil, "one": {src}, "two": {src6, byHand}, "none": {stranger}, "some": {stranger, src6},
	} {
		b, n := p.book(of...), 0
		for source, row := range want {
			if of != nil && !slices.Contains(of, source) {
				continue
			}
			n++
			have, _ := b.Get(source)
			if left := have.Remaining(book.ReadClock().Boot); left <= row.Timeout-lab.Patience || left > row.Timeout {
				t.Errorf("%s: %v is banned for %v more", name, source, left)
			}
			have.Until, have.StepUntil, have.First, have.Last = 0, 0, 0, 0
			if have != row {
				t.Errorf("%s: got %+v, want %+v", name, have, row)
			}
		}
		if b.Len() != n {
			t.Errorf("%s: got %d rows, want %d", name, b.Len(), n)
		}
	}
	p.awaitJournal("banned by hand")
	if lines := p.journal("banned by hand"); len(lines) != 1 || !strings.HasSuffix(lines[0], `reason="by \"me\"\n"`) {
		t.Errorf("the journal says %q", lines)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	l.Offend(offender)
	p.awaitOffenders(1)
	got := p.status()
	if age := time.Since(got.Since); age < 0 || age > lab.Patience || got.Since.Location() != time.UTC || got.Since.Nanosecond() != 0 {
		t.Errorf("it runs since %v", got.Since)
	}
	netns := uint64(0)
	l.Host.Do(func() { netns = book.Here(0).NetNS })
	want := control.Status{
		PID: p.Process.Pid, NetNS: netns, Since: got.Since, Config: l.file(), Table: true, TableCurrent: true, Mode: "enforce",
		Rows: 1, Offenders: 1, Resyncs: got.Resyncs,
	}
	if !reflect.DeepEqual(got, want) || got.Resyncs < 1 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestUnbanned has what was unbanned stay so, although the table is lost.
func TestUnbanned(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	l.Offend(offender, offender6)
	p.awaitOffenders(2)
	h, err := ruleset.Open(l.Conn, ruleset.Default().Table)
	if err == nil {
		_, _, err = h.Unban(prefixOf(offender6))
	}
	if err != nil {
		t.Fatal(err)
	}
	had, err := p.ask().Unbanned(false, netip.MustParsePrefix("203.0.113.9/32"), prefixOf(offender6))
	// It may have heard of it from the kernel, and have forgotten it by then.
	if err != nil || len(had) > 0 && !slices.Equal(had, []netip.Prefix{prefixOf(offender6)}) {
		t.Errorf("got %v, error %v", had, err)
	}
	if had, err := p.ask().Unbanned(false); err != nil || len(had) != 0 {
		t.Errorf("nobody: got %v, error %v", had, err)
	}
	if _, err := ruleset.Remove(l.Conn, h.Table.Name); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "the other one is put back", func() bool { return l.Lookup(offender).Banned() })
	if st := l.Lookup(offender6); st.Banned() || st.Step > 0 {
		t.Errorf("it is banned again: %+v", st)
	}
}

// TestRemoving has the table deleted by a program that has said so, whatever
// its name is: it is not made again.
func TestRemoving(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	l.Offend(offender)
	p.awaitOffenders(1)
	if err := p.ask().Removing(); err != nil {
		t.Fatal(err)
	}
	if _, err := ruleset.Remove(l.Conn, ruleset.Default().Table); err != nil {
		t.Fatal(err)
	}
	p.awaitJournal("level=WARN", "msg=removed")
	if s := p.status(); s.Table {
		t.Error("the status says that there is a table")
	}
	if lines := p.journal("table gone"); len(lines) > 0 {
		t.Errorf("the journal says %q", lines)
	}
}

// TestApplying has the table changed by a program that has said so: it is not
// repaired meanwhile, nor after the watcher has taken over the configuration.
func TestApplying(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	if err := p.ask().Applying(); err != nil {
		t.Fatal(err)
	}
	l.ladder = []string{"1h", "2h"}
	l.write()
	l.apply()
	lab.Await(t, "it knows that the table is another", func() bool { return !p.status().TableCurrent })
	if s := p.status(); !s.Table || s.TableWrong == "" {
		t.Errorf("the status is %+v", s)
	}
	if err := p.ask().Applying(); err != nil { // for ten seconds more
		t.Fatal(err)
	}
	// Otherwise it would be repaired within two seconds.
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if p.status().TableCurrent {
			t.Fatal("the table was repaired while it was being changed")
		}
	}
	if err := p.ask().Reload(nil); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "it knows that this is right", func() bool { return p.status().TableCurrent })
	if lines := p.journal("repaired"); len(lines) > 0 {
		t.Errorf("the journal says %q", lines)
	}
}

func TestSave(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	l.Offend(offender)
	p.awaitOffenders(1)
	if err := p.ask().Save(); err != nil {
		t.Fatal(err)
	}
	if got := saved(t, l.state); len(got) != 1 || got[prefixOf(offender).String()] != 1 {
		t.Errorf("saved %v", got)
	}
	// A directory in the way of the file cannot be replaced by it, whoever
	// tries.
	if err := errors.Join(os.Remove(l.state), os.MkdirAll(filepath.Join(l.state, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	l.Offend(offender6)
	p.awaitOffenders(2)
	err := p.ask().Save()
	if err == nil || !strings.HasPrefix(err.Error(), "have the watcher save: ") || !strings.Contains(err.Error(), l.state) {
		t.Errorf("got error %v, want one that names the file", err)
	}
	if s := p.status(); s.SaveFailures == 0 || !strings.Contains(s.SaveError, l.state) {
		t.Errorf("the status is %+v", s)
	}
}

// TestLongRequest has a request refused that is longer than the bound, before
// anything is done of what it asks for.
func TestLongRequest(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	l.Offend(offender)
	p.awaitOffenders(1)
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", p.socket)
	}}}
	defer client.CloseIdleConnections()
	do := func(method, path, body string) (int, string) {
		req, err := http.NewRequest(method, "http://watcher"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	list := func(length int) string {
		list := fmt.Sprintf("[%q", prefixOf(offender))
		return list + strings.Repeat(" ", length-len(list)-1) + "]"
	}
	if status, _ := do("POST", control.UnbannedPath, list(maxBody+1)); status == http.StatusOK {
		t.Error("one byte too many was taken")
	}
	if s := p.status(); s.Rows != 1 {
		t.Errorf("%d sources are remembered, want 1", s.Rows)
	}
	if status, text := do("POST", control.UnbannedPath, list(maxBody)); status != http.StatusOK {
		t.Errorf("a request that is not too long: status %d, %s", status, text)
	}
	for _, bad := range []struct{ method, path, body, want string }{
		{"GET", control.BookPath + "?source=x", "", "source: "},
		{"POST", control.UnbannedPath, "no list", "read the request: "},
		{"GET", control.SavePath, "", "Method Not Allowed"},
		{"GET", "/", "", "not found"},
	} {
		if status, text := do(bad.method, bad.path, bad.body); status == http.StatusOK || !strings.Contains(text, bad.want) {
			t.Errorf("%s: status %d, %s", bad.path, status, text)
		}
	}
	p.status() // and it answers others as before
}

// answers runs the commands of a daemon without anything else, and returns how
// to end them.
func answers(t *testing.T, socket string, load func() (*config.Config, error), w *watch.Watcher) (end func()) {
	t.Helper()
	conf := &config.Config{Watch: config.Watch{State: filepath.Join(filepath.Dir(socket), "state.jsonl")}}
	d := newDaemon(Config{Config: conf, Load: load, Stderr: io.Discard})
	d.watcher = w
	ctx, cancel := context.WithCancel(t.Context())
	if err := d.startCommands(ctx); err != nil {
		t.Fatal(err)
	}
	return func() {
		cancel()
		d.parts.Wait()
		d.stderr.close()
	}
}

func dial(t testing.TB, socket string) *control.Client {
	t.Helper()
	c, err := control.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestEndedWatcher(t *testing.T) {
	t.Parallel()
	w, err := watch.Open(watch.Config{NetNS: netnstest.NewHost(t, "host").FD(), Spec: ruleset.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx, nil); err != nil {
		t.Fatal(err)
	}
	socket := control.Path(filepath.Join(lab.ShortDir(t), "state"))
	defer answers(t, socket, nil, w)()
	c := dial(t, socket)
	for name, ask := range map[string]func() error{
		"status":   func() error { _, err := c.Status(); return err },
		"book":     func() error { _, err := c.Book(0); return err },
		"unbanned": func() error { _, err := c.Unbanned(true, netip.MustParsePrefix("203.0.113.9/32")); return err },
		"save":     c.Save, "applying": func() error { return c.Applying() }, "removing": c.Removing,
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), watch.ErrEnded.Error()) {
			t.Errorf("%s: got error %v, want %v", name, err, watch.ErrEnded)
		}
	}
}

// TestBookCutShort has the watcher end in the middle of a long answer: whoever
// asked must not take it for all.
func TestBookCutShort(t *testing.T) {
	t.Parallel()
	const n = 30_000
	s := newScraped(t, testSpec(), true)
	records := make([]ruleset.Record, n)
	for i := range records {
		records[i] = ruleset.Record{Source: prefixOf(source(i)), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Comment: strings.Repeat("x", 100)}
	}
	if _, err := s.Open().Put(records); err != nil {
		t.Fatal(err)
	}
	s.await(map[string]float64{`portmon_book_rows`: n})
	socket := control.Path(filepath.Join(lab.ShortDir(t), "state"))
	defer answers(t, socket, nil, s.watcher)()
	ask := func(after func()) (rows int, err error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: watcher\r\n\r\n", control.BookPath)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		after()
		text, err := io.ReadAll(resp.Body)
		return bytes.Count(text, []byte("\n")) - 1, err
	}
	if rows, err := ask(func() {}); rows != n || err != nil {
		t.Fatalf("got %d rows, error %v", rows, err)
	}
	if rows, err := ask(s.end); err == nil {
		t.Errorf("got %d of %d rows, and no error", rows, n)
	}
}

// TestEnd has the end come with connections that have asked for nothing yet,
// and with one that is being answered. It looks at all goroutines, so it is not
// parallel.
func TestEnd(t *testing.T) {
	socket := control.Path(filepath.Join(lab.ShortDir(t), "state"))
	asked, release := make(chan struct{}), make(chan struct{})
	var answered bool // is read after the end: the race detector checks that it was written before
	end := answers(t, socket, func() (*config.Config, error) {
		close(asked)
		<-release
		answered = true
		return nil, errors.New("on purpose")
	}, nil)
	for range 3 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	got := make(chan error)
	go func() { got <- dial(t, socket).Reload(nil) }()
	<-asked
	ended := make(chan struct{})
	go func() { end(); close(ended) }()
	if err := <-got; err == nil || strings.Contains(err.Error(), "on purpose") {
		t.Errorf("an answer came after the end: %v", err)
	}
	select {
	case <-ended:
		t.Fatal("it has ended while it answers")
	default:
	}
	close(release)
	<-ended
	if !answered {
		t.Error("it has not waited for the last answer")
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	lab.Await(t, "no goroutine is left", func() bool {
		buf := make([]byte, 1<<20)
		return !strings.Contains(string(buf[:runtime.Stack(buf, true)]), "daemon.(*commands)")
	})
}
