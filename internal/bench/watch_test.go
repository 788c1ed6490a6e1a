package bench

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lab"
)

// watcher is `portmon watch` on a host.
type watcher struct {
	*process
	*control.Client
	pid int
}

// watch starts a watcher, and returns when it is ready.
func (s *site) watch() *watcher {
	w := &watcher{process: s.start(portmon, "watch", "--config", s.toml)}
	s.await(func() (err error) {
		if w.Client, err = control.Dial(control.Path(s.state)); err != nil {
			return err
		}
		status, err := w.Status() // answered once it is ready
		w.pid = status.PID
		return err
	})
	return w
}

// stop ends the watcher and returns what it has cost.
func (w *watcher) stop() (metrics string) {
	check(w.t, syscall.Kill(w.pid, syscall.SIGTERM))
	return w.wait()
}

// await tries something every millisecond until it succeeds.
func (s *site) await(try func() error) {
	err := errors.New("not tried")
	for end := time.Now().Add(2 * time.Minute); err != nil; err = try() {
		if time.Sleep(time.Millisecond); time.Now().After(end) {
			s.T.Fatalf("portmon watch, for two minutes: %v", err)
		}
	}
}

// cpu returns the CPU time that the watcher has used.
func (w *watcher) cpu() time.Duration {
	return clock(w.t, int32(^w.pid<<3|2)) // as clock_getcpuclockid(3) has it
}

// stat returns the memory of the watcher, and what it has caused to be written
// to a disk.
func (w *watcher) stat() (procfs.ProcStatus, procfs.ProcIO) {
	p, err := procfs.NewProc(w.pid)
	status, statusErr := p.NewStatus()
	io, ioErr := p.IO()
	check(w.t, errors.Join(err, statusErr, ioErr))
	return status, io
}

// BenchmarkSave saves many bans, and starts and stops a watcher beside them.
func BenchmarkSave(b *testing.B) {
	s := newBanned(b, size(500_000))
	start := func() string {
		begin := time.Now()
		w := s.watch()
		defer w.stop()
		wall := time.Since(begin)
		status, _ := w.stat()
		return fmt.Sprintf(costs, wall.Seconds(), w.cpu().Seconds(), float64(status.VmHWM))
	}
	stop := func() string {
		w := s.watch()
		begin, used := time.Now(), w.cpu()
		var whole, cpu, peak float64
		_, err := fmt.Sscanf(w.stop(), costs, &whole, &cpu, &peak)
		check(b, err)
		return fmt.Sprintf(costs, time.Since(begin).Seconds(), cpu-used.Seconds(), peak)
	}
	compare(b, "500,000 bans", min(*rounds, 5), s.dump(), contender{"portmon save", s.portmon("save")},
		contender{"portmon watch, until it is ready", start}, contender{"portmon watch, from SIGTERM to its end", stop})
}

// BenchmarkWatch measures the watcher when nothing happens, and when sources
// offend as fast as one CPU sends their packets, while the other one runs it.
func BenchmarkWatch(b *testing.B) {
	watch := func(name string, bans int, work func(*site, *watcher)) {
		compare(b, name, min(*rounds, 3), contender{"portmon watch", func() string {
			s := newBanned(b, bans)
			s.NFT("flush set inet portmon starting") // ends the grace
			w := s.watch()
			defer w.stop()
			time.Sleep(2 * time.Second) // what the start has left to do is no part of this
			_, before := w.stat()
			begin, used := time.Now(), w.cpu()
			work(s, w)
			wall, cpu := time.Since(begin), w.cpu()-used
			status, io := w.stat()
			return fmt.Sprintf(costs+" %d resident-B %d written-B", wall.Seconds(), cpu.Seconds(), float64(status.VmHWM),
				status.VmRSS, io.WriteBytes-before.WriteBytes)
		}})
	}
	idle := func(*site, *watcher) { time.Sleep(3 * time.Second) }
	watch("idle for 3 s, no bans", 0, idle)
	watch("idle for 3 s, 65,536 bans", size(standard), idle)
	watch("count 8,000 offences of one burst", 0, func(s *site, w *watcher) {
		s.injector(sources4(size(8000)), syn(lab.TrapTCP)).send(1)
		s.await(func() error {
			if status, err := w.Status(); err != nil || status.Rows < size(8000) {
				return fmt.Errorf("%d of %d offences counted: %w", status.Rows, size(8000), err)
			}
			return nil
		})
	})
}
