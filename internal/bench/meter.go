package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// usage is what processes cost.
type usage struct {
	// Begin and End are readings of the monotonic clock, which all processes
	// share.
	Begin, End time.Duration
	CPU        time.Duration
	RSS        int64 // peak, in bytes
}

func (u usage) seconds() float64    { return (u.End - u.Begin).Seconds() }
func (u usage) cpuSeconds() float64 { return u.CPU.Seconds() }
func (u usage) megabytes() float64  { return float64(u.RSS) / 1e6 }

// A meter is this program in its smallest form, between the program proper and
// what is measured: the peak memory that the kernel tells of a process is at
// least that of the process it was started by, and this program's own is large.

// meter runs a command and writes its usage to the third file.
func meter(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var u usage
	var err error
	if u.Begin, err = monotonic(); err != nil {
		return err
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	if u.End, err = monotonic(); err != nil {
		return err
	}
	s := cmd.ProcessState
	u.CPU, u.RSS = s.UserTime()+s.SystemTime(), s.SysUsage().(*syscall.Rusage).Maxrss<<10
	return json.NewEncoder(os.NewFile(3, "result")).Encode(u)
}

// measureSelf returns what f costs this process, but for the memory.
func measureSelf(f func() error) (u usage, err error) {
	runtime.GC() // what went before is not f's
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		return u, os.NewSyscallError("getrusage", err)
	}
	if u.Begin, err = monotonic(); err != nil {
		return u, err
	}
	if err := f(); err != nil {
		return u, err
	}
	if u.End, err = monotonic(); err != nil {
		return u, err
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		return u, os.NewSyscallError("getrusage", err)
	}
	u.CPU = time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	return u, nil
}

func monotonic() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano()), os.NewSyscallError("clock_gettime", err)
}

// measure runs commands on a host as a pipeline. Output of the last is thrown
// away. CPU time and memory are the sums.
func measure(h *netnstest.Host, pipeline ...[]string) (total usage, err error) {
	h.Do(func() { total, err = measureHere(pipeline) })
	return total, err
}

func measureHere(pipeline [][]string) (total usage, err error) {
	stages := make([]*stage, len(pipeline))
	var in *os.File
	for i, args := range pipeline {
		if stages[i], in, err = startStage(args, in, i+1 == len(pipeline)); err != nil {
			err = fmt.Errorf("%s: %w", args[0], err)
			break
		}
	}
	if in != nil {
		in.Close()
	}
	for _, s := range stages {
		if s == nil {
			continue
		}
		u, waitErr := s.wait()
		err = errors.Join(err, waitErr)
		if total.Begin == 0 || u.Begin < total.Begin {
			total.Begin = u.Begin
		}
		total.End = max(total.End, u.End)
		total.CPU += u.CPU
		total.RSS += u.RSS
	}
	return total, err
}

// stage is one command of a pipeline, with its meter.
type stage struct {
	cmd    *exec.Cmd
	result *os.File
	stderr strings.Builder
}

// startStage starts a command that reads from in, which it closes, and returns
// what the next one reads from.
func startStage(args []string, in *os.File, last bool) (s *stage, next *os.File, err error) {
	s = &stage{cmd: exec.Command("/proc/self/exe", append([]string{"meter"}, args...)...)}
	s.cmd.Stderr = &s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if in != nil {
		defer in.Close()
		s.cmd.Stdin = in
	}
	if !last {
		var out *os.File
		if next, out, err = os.Pipe(); err != nil {
			return nil, nil, err
		}
		defer out.Close()
		s.cmd.Stdout = out
	}
	result, w, err := os.Pipe()
	if err != nil {
		return nil, next, err
	}
	defer w.Close()
	s.cmd.ExtraFiles = []*os.File{w}
	s.result = result
	if err := s.cmd.Start(); err != nil {
		return nil, next, err
	}
	return s, next, nil
}

func (s *stage) wait() (u usage, err error) {
	defer s.result.Close()
	text, readErr := io.ReadAll(s.result)
	if err := s.cmd.Wait(); err != nil {
		return u, fmt.Errorf("%w: %.1000s", err, s.stderr.String())
	}
	if readErr == nil {
		readErr = json.Unmarshal(text, &u)
	}
	return u, readErr
}
