package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/netnstest"
)

// offenders is how many sources offend at once for the watcher to count. In the
// long run the table bans fewer.
const offenders = 10_000

// watch measures what the watcher costs when it starts, and when sources offend
// as fast as one CPU sends their packets, while the other one runs the watcher.
func watch(b *bench, _ *scope) (*table, error) {
	t := &table{
		caption: "The watcher",
		columns: []string{"work", "time", "CPU", "resident memory", "peak"},
		note:    "Resident memory includes what is in use of the program's file.",
	}
	for _, work := range []struct {
		name            string
		bans, offenders int
	}{
		{"start, nobody is banned", 0, 0},
		{"start, " + thousands(manyBans) + " bans", manyBans, 0},
		{"count " + thousands(offenders) + " offences", 0, offenders},
	} {
		var runs []usage
		var resident []float64
		for range min(b.count, 3) {
			err := within(func(s *scope) error {
				u, now, err := watchOnce(b, s, work.bans, work.offenders)
				runs, resident = append(runs, u), append(resident, float64(now)/1e6)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		t.row(work.name, seconds(median(column(runs, usage.seconds))), seconds(median(column(runs, usage.cpuSeconds))),
			megabytes(median(resident)), megabytes(median(column(runs, usage.megabytes))))
	}
	return t, nil
}

// watchOnce returns the cost of starting, or of the offences if there are any,
// and the resident memory afterwards.
func watchOnce(b *bench, t *scope, bans, offenders int) (u usage, resident int64, err error) {
	g, err := newTarget(t, portmonTable)
	if err != nil {
		return u, 0, err
	}
	if err := g.fill(banSet(false), randomAddrs(bans)); err != nil {
		return u, 0, err
	}
	toml, err := b.watchConfig("")
	if err != nil {
		return u, 0, err
	}
	if u.Begin, err = monotonic(); err != nil {
		return u, 0, err
	}
	w, err := b.watch(t, g.host(), toml)
	if err != nil {
		return u, 0, err
	}
	if u.End, u.CPU, err = w.idle(); err != nil {
		return u, 0, err
	}
	if offenders > 0 {
		frames, err := g.syns(randomAddrs(offenders), portTrap)
		if err != nil {
			return u, 0, err
		}
		used := u.CPU
		if u.Begin, err = monotonic(); err != nil {
			return u, 0, err
		}
		if _, err := g.burst(t, frames); err != nil {
			return u, 0, err
		}
		u.End, u.CPU, err = w.after("count offences", func() (bool, error) { s, err := w.Status(); return s.Rows == offenders, err })
		if err != nil {
			return u, 0, err
		}
		u.CPU -= used
	}
	resident, u.RSS, err = w.memory()
	return u, resident, err
}

// watcher is `portmon watch` on a host, with a state file of its own.
type watcher struct {
	*control.Client
	host *netnstest.Host
	pid  int
}

// watchConfig writes a configuration with a state file in a directory of its
// own, and returns its name. More goes on in table watch.
func (b *bench) watchConfig(more string) (toml string, err error) {
	dir, err := os.MkdirTemp(b.dir, "watch-")
	if err != nil {
		return "", err
	}
	toml = filepath.Join(dir, "portmon.toml")
	text := fmt.Sprintf("[watch]\nstate = %q\n%s", stateOf(toml), more)
	return toml, os.WriteFile(toml, []byte(text), 0o644)
}

func stateOf(toml string) string { return filepath.Join(filepath.Dir(toml), "state.jsonl") }

// watch starts a watcher, and returns when it is ready. It ends with the scope.
func (b *bench) watch(t *scope, h *netnstest.Host, toml string) (*watcher, error) {
	cmd := exec.Command(b.portmon, "watch", "--config", toml)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	var exit error
	go func() {
		defer close(ended)
		h.Do(func() {
			err := cmd.Start()
			started <- err
			if err == nil {
				exit = cmd.Wait() // on the thread that started it: the process is killed when that ends
			}
		})
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended by itself
		if <-ended; exit != nil {
			t.Errorf("portmon watch: %w: %.1000s", exit, stderr.String())
		}
	})
	w := &watcher{host: h, pid: cmd.Process.Pid}
	err := await("start portmon watch", time.Millisecond, func() (ok bool, err error) {
		select {
		case <-ended:
			return false, fmt.Errorf("portmon watch has ended")
		default:
		}
		w.Client, err = control.Dial(control.Path(stateOf(toml)))
		if errors.Is(err, control.ErrNone) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(w.Close)
	_, err = w.Status() // answered once it is ready
	return w, err
}

// cpu returns the CPU time that the watcher has used.
func (w *watcher) cpu() (time.Duration, error) {
	var ts unix.Timespec
	clock := int32(^w.pid<<3 | 2) // as clock_getcpuclockid(3) has it
	err := unix.ClockGettime(clock, &ts)
	return time.Duration(ts.Nano()), os.NewSyscallError("clock_gettime", err)
}

// idle returns when the watcher has done next to nothing for a moment, with the
// beginning of that moment and the CPU time used by then.
func (w *watcher) idle() (since, used time.Duration, err error) {
	const moment = 5 * time.Millisecond
	err = await("watcher becomes idle", 0, func() (bool, error) {
		var err error
		if since, err = monotonic(); err != nil {
			return false, err
		}
		if used, err = w.cpu(); err != nil {
			return false, err
		}
		time.Sleep(moment)
		later, err := w.cpu()
		return later-used < moment/20, err
	})
	return since, used, err
}

// after returns when the watcher is idle and done returns true, with the moment
// since when, and the CPU time used by then. done is asked only when the
// watcher is idle, so that the answers do not cost it much.
func (w *watcher) after(what string, done func() (bool, error)) (since, used time.Duration, err error) {
	err = await(what, 0, func() (bool, error) {
		var err error
		if since, used, err = w.idle(); err != nil {
			return false, err
		}
		return done()
	})
	return since, used, err
}

// memory returns how many bytes of the watcher are in memory, and how many were
// at most.
func (w *watcher) memory() (now, peak int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	if err != nil {
		return 0, 0, err
	}
	now, peak = statusField(text, "VmRSS"), statusField(text, "VmHWM")
	if now == 0 || peak == 0 {
		return 0, 0, fmt.Errorf("memory of process %d: unknown", w.pid)
	}
	return now, peak, nil
}

// statusField returns a number of kB of /proc/PID/status in bytes, 0 if it is
// not there.
func statusField(status []byte, name string) int64 {
	for line := range bytes.Lines(status) {
		if f := strings.Fields(string(line)); len(f) == 3 && f[0] == name+":" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// await returns when done does not return false. It asks again and again, with
// a pause after each time.
func await(what string, pause time.Duration, done func() (bool, error)) error {
	const patience = time.Minute
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pause) {
		if ok, err := done(); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: not within %v", what, patience)
}
