package watch

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// tallied returns the sum of the statistics beside a state file.
func (l *fixture) tallied(path string) (c stats.Count) {
	l.T.Helper()
	s, report, err := stats.Read(path, time.Local)
	if err != nil || report.String() != "" {
		l.T.Fatal(err, report)
	}
	for _, day := range s.Days(3, time.Now()) {
		c.Add(&day.Count)
	}
	return c
}

// wantTallied fails the test unless the statistics have what the kernel has
// counted since the table was made, and in those before.
func (l *fixture) wantTallied(when, path string, before map[string]ruleset.Counter) stats.Count {
	l.T.Helper()
	got := l.tallied(path)
	for name, c := range l.Open().Counters {
		if want := c.Packets + before[name].Packets; got.Packets[name] != want {
			l.T.Errorf("%s, %s is %d in the statistics, and %d in the kernel", when, name, got.Packets[name], want)
		}
	}
	return got
}

// The statistics have what the kernel has counted, to the packet, after the
// watcher has ended, been killed, and made the table anew.
func TestTally(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	path := t.TempDir() + "/state.jsonl"
	offences := uint64(0)
	offend := func() {
		sources := l.Sources(2)
		offences += uint64(len(sources))
		l.Offend(sources...)
		l.Internet.Burst(100, func(i int) netnstest.Packet { return l.SYN(sources[i%len(sources)], lab.OpenTCP) })
	}
	w := l.watch(func(c *Config) { c.State = path })
	if err := w.Applying(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.apply()                                   // as portmon apply does
	if err := w.Save(t.Context()); err != nil { // a table of others counts from when it was seen
		t.Fatal(err)
	}
	offend()
	w.reload <- Config{Spec: l.spec}
	if err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantTallied("when asked", path, nil)
	offend()
	w.stop()
	c := l.wantTallied("at its end", path, nil)
	if c.Bans["trap 1"] != offences || c.Ports["tcp/23"] != offences || c.Sources != offences || c.New != offences {
		t.Errorf("of %d offences, %+v is counted", offences, c)
	}
	for range 5 {
		offend() // while there is none
		p := l.start(path)
		p.awaitReady()
		offend()
		p.end(syscall.SIGKILL)
	}
	w = l.watch(func(c *Config) { c.State = path })
	if err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := l.wantTallied("after kills", path, nil); c.Bans["trap 1"] > offences {
		t.Errorf("%d of %d offences are counted", c.Bans["trap 1"], offences)
	}
	before := l.Open().Counters
	l.deleteTable()
	w.awaitNews(Restored, 1)
	offend()
	w.stop()
	l.wantTallied("in a new table", path, before)
}

// An offence that could not be written into the book is learnt again by the next
// watcher. It is counted once all the same.
func TestTallyWithoutBook(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	path := t.TempDir() + "/state.jsonl"
	w := l.watch(func(c *Config) { c.State, c.Fault = path, func(error) {} })
	if err := w.Applying(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.apply()
	if err := w.Save(t.Context()); err != nil { // a table of others counts from when it was seen
		t.Fatal(err)
	}
	first, second := l.Sources(2), l.Sources(3)
	l.Offend(first...)
	if err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	aside, killed := path+".aside", t.TempDir()
	if err := errors.Join(os.Rename(path, aside), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	l.Offend(second...)
	if err := w.Save(t.Context()); err == nil {
		t.Fatal("written into a folder")
	}
	// What another one would find if this one were killed now.
	if err := errors.Join(os.Remove(path), os.Rename(aside, path), os.CopyFS(killed, os.DirFS(filepath.Dir(path)))); err != nil {
		t.Fatal(err)
	}
	w.stop()
	path = filepath.Join(killed, filepath.Base(path))
	l.watch(func(c *Config) { c.State = path }).stop()
	want := uint64(len(first) + len(second))
	if c := l.wantTallied("after that", path, nil); c.Bans["trap 1"] != want || c.New != want {
		t.Errorf("counted %+v, want %d offences of as many sources", c, want)
	}
}

// If the file of the book is refused, all bans are learnt again by each watcher.
// What was there before counts for none of them, and what comes for one.
func TestTallyWithBookRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	if err := os.WriteFile(path, []byte(`{"format":"portmon-state","version":99}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Offend(l.Sources(2)...) // before anybody watched
	want := uint64(0)
	for i := range 3 {
		refused := make(chan error, 100)
		w := l.watch(func(c *Config) { c.State, c.Fault = path, func(err error) { refused <- err } })
		sources := l.Sources(1)
		want += uint64(len(sources))
		l.Offend(sources...)
		w.stop()
		if err := <-refused; !errors.As(err, new(*folder.RefusedError)) {
			t.Errorf("the book was not refused: %v", err)
		}
		// On a busy machine, a ban may be found in the sets before its message.
		if got := l.tallied(path).Bans["trap 1"]; got > want || got == 0 {
			t.Fatalf("after watcher %d: %d bans are counted, want %d", i+1, got, want)
		}
	}
}
