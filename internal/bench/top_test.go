package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkTop opens the screen until it shows how full the sets are, and until
// the list of bans has been read.
func BenchmarkTop(b *testing.B) {
	s := newBanned(b, size(standard))
	compare(b, "open top with 65,536 bans", *rounds,
		contender{"portmon top, first frame", func() string { return s.openTop(fmt.Sprint(size(standard))) }},
		contender{"portmon top, longest bans", func() string { return s.openTop(fmt.Sprint("(", size(standard), ")")) }})
}

// openTop opens the screen on a terminal until it shows a text, and quits.
func (s *site) openTop(text string) (metrics string) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	check(s.T, err)
	defer terminal.Close()
	check(s.T, unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0))
	check(s.T, unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	n, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	check(s.T, err)
	inner, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	check(s.T, err)
	cmd := exec.Command(portmon, "top", "--config", s.toml)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inner, inner, inner
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	begin := time.Now()
	s.Host.Do(func() { check(s.T, cmd.Start()) })
	inner.Close()
	var shown strings.Builder
	for buf := make([]byte, 64<<10); !strings.Contains(shown.String(), text); {
		n, err := terminal.Read(buf)
		if err != nil {
			s.T.Fatalf("top ended: %v: %q", err, shown.String())
		}
		shown.Write(buf[:n])
	}
	wall := time.Since(begin)
	check(s.T, cmd.Process.Signal(unix.SIGTERM))
	go func() { // it must not wait for who reads
		for buf := make([]byte, 64<<10); ; {
			if _, err := terminal.Read(buf); err != nil {
				return
			}
		}
	}()
	_ = cmd.Wait() // it was told to end
	return fmt.Sprintf("%g sec/op", wall.Seconds())
}
