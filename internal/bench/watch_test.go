package bench

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"github.com/portmon/portmon/internal/control"
)

// watcher is `portmon watch` on a host.
type watcher struct {
	*control.Client
	*exec.Cmd
	b      *testing.B
	stderr strings.Builder
	ended  chan error
}

// watch starts a watcher, and returns when it is ready. It ends with the
// benchmark, unless it is stopped before.
func (s *site) watch() *watcher {
	w := &watcher{Cmd: exec.Command(*portmon, "watch", "--config", s.toml), b: s.b, ended: make(chan error, 1)}
	w.Stderr, w.SysProcAttr = &w.stderr, killed
	go s.host.Do(func() { w.ended <- w.Run() })
	s.b.Cleanup(w.stop)
	w.await(func() (err error) {
		w.Client, err = control.Dial(control.Path(s.state))
		if err == nil {
			_, err = w.Status() // answered once it is ready
		}
		return err
	})
	return w
}

// stop ends the watcher, unless it has been stopped before.
func (w *watcher) stop() {
	if w.ended == nil {
		return
	}
	_ = w.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	if err := <-w.ended; err != nil {
		w.b.Errorf("portmon watch: %v: %.1000s", err, w.stderr.String())
	}
	w.ended = nil
}

// await tries something every millisecond until it succeeds.
func (w *watcher) await(try func() error) {
	err := errors.New("")
	for end := time.Now().Add(2 * time.Minute); err != nil; err = try() {
		if time.Sleep(time.Millisecond); time.Now().After(end) {
			w.b.Fatalf("portmon watch, for two minutes: %v", err)
		}
	}
}

// cpu returns the CPU time that the watcher has used.
func (w *watcher) cpu() time.Duration {
	return time.Duration(clock(w.b, int32(^w.Process.Pid<<3|2))) // as clock_getcpuclockid(3) has it
}

// stat returns the memory of the watcher, and what it has caused to be written
// to a disk.
func (w *watcher) stat() (procfs.ProcStatus, procfs.ProcIO) {
	p, err := procfs.NewProc(w.Process.Pid)
	check(w.b, err)
	status, err := p.NewStatus()
	check(w.b, err)
	io, err := p.IO()
	check(w.b, err)
	return status, io
}

// BenchmarkSave writes 500,000 bans to the state file, and starts and stops a
// watcher beside them. The bare loop receives what the kernel sends and drops it.
func BenchmarkSave(b *testing.B) {
	t := newContest("Save bans, start and stop the watcher", "bare receive loop")
	s := newBanned(b, size(500_000))
	w := new(watcher)
	measure := func(f func(), used time.Duration) usage {
		begin := time.Now()
		f()
		if s := w.ProcessState; s != nil {
			return usage{time.Since(begin), s.UserTime() + s.SystemTime() - used, peak(s)}
		}
		status, _ := w.stat()
		return usage{time.Since(begin), w.cpu(), int64(status.VmHWM)}
	}
	start := func() { w.stop(); w = s.watch() }
	t.contest(b, thousands(size(500_000))+" bans", min(*rounds, 5),
		runner{"bare receive loop", w.stop, self(b, s.host, "dump")},
		runner{"`portmon save`", func() { w.stop() }, s.portmon("save")},
		runner{"`portmon watch`, until it is ready", func() { w.stop() }, func() usage { return measure(start, 0) }},
		runner{"`portmon watch`, from SIGTERM on", start, func() usage { return measure(w.stop, w.cpu()) }})
	w.stop()
	t.write()
}

// BenchmarkWatch measures the watcher when nothing happens, and when sources
// offend as fast as one CPU sends their packets, while the other one runs it.
func BenchmarkWatch(b *testing.B) {
	t := &table{caption: "The watcher", text: 1, columns: []string{"work", "time", "CPU", "resident memory", "peak", "written"},
		note: "Resident memory includes the parts of the program's file that are in use. What is written is what the disk got."}
	for _, work := range []struct{ bans, offences int }{{0, 0}, {size(standard), 0}, {0, size(8000)}} {
		var values [5][]float64
		for range min(*rounds, 3) {
			s := newBanned(b, work.bans)
			s.arm()
			w := s.watch()
			time.Sleep(2 * time.Second) // what the start has left to do is no part of this
			_, before := w.stat()
			begin, used := time.Now(), w.cpu()
			if work.offences == 0 {
				time.Sleep(3 * time.Second)
			} else {
				s.burst(s.syns(randomAddrs(work.offences), portTrap))
				w.await(func() error {
					if status, err := w.Status(); err != nil || status.Rows < work.offences {
						return fmt.Errorf("%d of %d offences counted: %w", status.Rows, work.offences, err)
					}
					return nil
				})
			}
			wall, cpu := time.Since(begin).Seconds(), (w.cpu() - used).Seconds()
			status, io := w.stat()
			for i, v := range []float64{wall, cpu, float64(status.VmRSS) / 1e6, float64(status.VmHWM) / 1e6, float64(io.WriteBytes - before.WriteBytes)} {
				values[i] = append(values[i], v)
			}
			w.stop()
		}
		name := fmt.Sprintf("idle, %s bans", thousands(work.bans))
		if work.offences > 0 {
			name = fmt.Sprintf("count %s offences", thousands(work.offences))
		}
		t.row(name, seconds(median(values[0])), seconds(median(values[1])), megabytes(median(values[2])), megabytes(median(values[3])),
			fmt.Sprintf("%.0f bytes", median(values[4])))
	}
	t.write()
}
