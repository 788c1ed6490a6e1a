package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func (p *process) hangUp() { p.Process.Signal(unix.SIGHUP) }

// TestReload changes all that can change.
func TestReload(t *testing.T) {
	t.Parallel()
	l := newLab(t, "2s", "1h")
	l.metrics = metricsAddr
	before := l.notices(roleNote)
	p := l.start()
	l.Offend(offender)
	lab.Await(t, "a notice by the old command", func() bool { return len(notes(t, before)) == 1 })

	const elsewhere = "127.0.0.1:9714"
	l.ladder, l.metrics = []string{"2s", "5h"}, elsewhere
	after := l.notices(roleNote)
	l.write()
	p.hangUp()
	p.awaitJournal("level=INFO", `msg="configuration read again"`, "file="+l.file())
	p.awaitNotified("READY", 2)
	p.awaitJournal("msg=repaired") // the table is what the new configuration says
	if got, want := p.notified(), []string{"READY", "RELOADING", "READY"}; !slices.Equal(got, want) {
		t.Errorf("it told systemd %v, want %v", got, want)
	}
	if told := p.seen(&p.told)[1]; !strings.HasPrefix(told, `"RELOADING=1\nMONOTONIC_USEC=`) {
		t.Errorf("it told systemd %s", told)
	}
	l.AwaitFree(offender)
	l.Offend(offender)
	lab.Await(t, "a notice by the new command", func() bool { return len(notes(t, after)) == 1 })
	// The offence is in it if it came within a second.
	if n := notes(t, after)[0]; !strings.HasPrefix(n["PORTMON_TITLE"], hostName+": table repaired") {
		t.Errorf("the notice is %v", n)
	}
	if n := len(notes(t, before)); n != 1 {
		t.Errorf("the old command was run %d times", n)
	}
	lab.Await(t, "an escalation at the new address", func() bool {
		v, _ := l.value(elsewhere, `portmon_escalations_total{tier="2"}`)
		return v == "1"
	})
	if _, err := l.get(metricsAddr); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("metrics are still at the old address: %v", err)
	}

	for _, change := range []struct{ at, not string }{{metricsAddr, elsewhere}, {"", metricsAddr}} {
		l.metrics, l.command = change.at, nil
		l.write()
		if err := p.ask().Reload(nil); err != nil {
			t.Fatal(err)
		}
		if _, err := l.get(change.not); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("with metrics = %q, they are served at %s: error %v", change.at, change.not, err)
		}
	}
	p.stop()
}

// TestWrongReload refuses what is wrong and what cannot change, and all goes on
// as it was.
func TestWrongReload(t *testing.T) {
	t.Parallel()
	l := newLab(t, "2s", "3h")
	l.metrics = metricsAddr
	dir := l.notices(roleNote)
	p := l.start()
	l.Offend(offender)
	p.awaitOffenders(1)
	right := l.settings
	for name, tt := range map[string]struct {
		change func(*settings)
		words  []string
	}{
		"state": {func(s *settings) { s.state = l.dir + "/other.jsonl" }, []string{"state in [watch] has changed", "restart the watcher"}},
		"key":   {func(s *settings) { s.extra = "colour = \"blue\"\n" }, []string{"portmon.toml:10", "colour"}},
		"value": {func(s *settings) { s.metrics = "nowhere" }, []string{"portmon.toml:8", "metrics"}},
	} {
		l.settings = right
		tt.change(&l.settings)
		// What is right beside it is not taken over either.
		l.ladder, l.command = []string{"2s", "9h"}, nil
		l.write()
		err := p.ask().Reload(nil)
		if err == nil {
			t.Fatalf("%s: not refused", name)
		}
		for _, w := range tt.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: got error %v, want %q in it", name, err, w)
			}
		}
		reloads := len(p.notified())
		p.hangUp()
		p.awaitJournal(append(tt.words, "level=ERROR", "the configuration stays as it was")...)
		lab.Await(t, "it is ready again", func() bool { return len(p.notified()) == reloads+2 })
	}
	l.AwaitFree(offender)
	l.Offend(offender)
	if got := l.Lookup(offender).Bans[0].Timeout; got != 3*time.Hour {
		t.Errorf("the offender is banned for %v, want 3h", got)
	}
	if v, _ := l.value(metricsAddr, "portmon_offenders"); v != "1" {
		t.Errorf("there are %q offenders by the metrics", v)
	}
	if len(p.journal("configuration read again")) > 0 {
		t.Error("a wrong configuration was taken over")
	}
	p.stop()
	if len(notes(t, dir)) == 0 {
		t.Error("the old command was not run")
	}
}

// systemd notes what it is told.
type systemd struct {
	mu   sync.Mutex
	told []string
}

func (s *systemd) notify(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, _, _ := strings.Cut(state, "=")
	s.told = append(s.told, name)
}

func (s *systemd) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told)
}

// within runs a daemon in this process, where the race detector sees it, until
// it is told to end. It listens to nothing but its socket, as its goroutines
// are in another namespace than the one that this is called for.
func (l *fixture) within(load func() (*config.Config, error), reload <-chan os.Signal) (s *systemd, stop func()) {
	l.T.Helper()
	conf, err := config.Load(l.file())
	if err != nil {
		l.T.Fatal(err)
	}
	return l.from(conf, load, reload)
}

// from is within, with the configuration that it begins with.
func (l *fixture) from(conf *config.Config, load func() (*config.Config, error), reload <-chan os.Signal) (s *systemd, stop func()) {
	l.T.Helper()
	s = new(systemd)
	ctx, cancel := context.WithCancel(l.T.Context())
	ended := make(chan error, 1)
	go l.Host.Do(func() {
		ended <- Run(ctx, Config{
			Config: conf, Load: load, Stderr: io.Discard, Notify: s.notify,
			Dial: func() (*nftset.Conn, error) { return nftset.Dial(&nftset.Config{NetNS: l.Host.FD()}) },
		}, reload)
	})
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				l.T.Error(err)
			}
		case <-time.After(lab.LongPatience):
			l.T.Error("it does not end")
		}
	})
	l.T.Cleanup(stop)
	return s, stop
}

// TestApplyWhileStarting applies another configuration after the daemon has read
// its file, and before it listens to be told.
func TestApplyWhileStarting(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	stale, err := config.Load(l.file())
	if err != nil {
		t.Fatal(err)
	}
	l.ladder = []string{"1h", "2h"}
	l.write()
	l.apply()
	digest := func() string {
		s, err := ruleset.Read(l.Conn, stale.Spec.Table)
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest
	}
	applied := digest()
	_, stop := l.from(stale, func() (*config.Config, error) { return config.Load(l.file()) }, nil)
	lab.Await(t, "the table is what the watcher wants", func() bool {
		c, err := control.Dial(control.Path(l.state))
		if err != nil {
			return false
		}
		defer c.Close()
		s, err := c.Status()
		return err == nil && s.TableCurrent
	})
	if got := digest(); got != applied {
		t.Errorf("the watcher has replaced the table: its digest is %s, want %s", got, applied)
	}
	stop()
}

// TestReloadBeforeReady has a wrong configuration to be read as soon as it
// begins: to be ready after that is not to be ready.
func TestReloadBeforeReady(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	reload := make(chan os.Signal, 1)
	reload <- unix.SIGHUP
	s, stop := l.within(func() (*config.Config, error) { return nil, errors.New("on purpose") }, reload)
	lab.Await(t, "it has reloaded", func() bool { return len(s.list()) >= 3 })
	stop()
	if got, want := s.list(), []string{"READY", "RELOADING", "READY", "STOPPING"}; !slices.Equal(got, want) {
		t.Errorf("it told systemd %v, want %v", got, want)
	}
}

// TestReloadAtOnce reloads while all else begins, again and again.
func TestReloadAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	reload := make(chan os.Signal)
	n := 0
	_, stop := l.within(func() (*config.Config, error) {
		conf, err := config.Load(l.file())
		if n++; n%2 == 1 && err == nil {
			conf.Watch.Command = []string{"/bin/true"}
		}
		return conf, err
	}, reload)
	for range 20 {
		select {
		case reload <- unix.SIGHUP:
		case <-time.After(lab.LongPatience):
			t.Fatal("it does not reload")
		}
	}
	// Each daemon of this process has one. A hundred goroutines fit in here.
	lab.Await(t, "there is one sender of notices, and not twenty", func() bool {
		buf := make([]byte, 1<<20)
		return strings.Count(string(buf[:runtime.Stack(buf, true)]), "notice.(*Sender).Run(") < 5
	})
	stop()
}

// TestEndWhileReloading has the end come while the configuration is read.
func TestEndWhileReloading(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	reload, reading, goOn := make(chan os.Signal), make(chan struct{}), make(chan struct{})
	loads := 0
	s, stop := l.within(func() (*config.Config, error) {
		if loads++; loads > 1 { // the first is before it runs
			close(reading)
			<-goOn
		}
		return config.Load(l.file())
	}, reload)
	reload <- unix.SIGHUP
	<-reading
	go func() {
		defer close(goOn)
		for end := time.Now().Add(lab.Patience / 2); !slices.Contains(s.list(), "STOPPING"); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("the end has not begun")
				return
			}
		}
	}()
	stop()
}
