package notice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// commandTimeout is how long a program may run.
	commandTimeout = 30 * time.Second
	// maxStderr is how many bytes are quoted of what it writes to stderr, the
	// last.
	maxStderr = 500
)

// errTimeout is why a program was killed that ran too long.
var errTimeout = errors.New("killed as it ran too long")

// command runs a program for each notice.
type command struct {
	argv    []string // an absolute path and arguments
	timeout time.Duration
}

// send runs the program and waits for its end. It is not run again if it fails:
// nobody knows how far it came.
func (c *command) send(ctx context.Context, n *notice) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer cancel()
	var stderr tail
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(inherited(os.LookupEnv), environ(n)...)
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		// Of a shell, what it waits for must die with it.
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	// What a program leaves behind may hold its stderr open.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var path *os.PathError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.Is(context.Cause(ctx), errTimeout):
		err = errTimeout
	case ctx.Err() != nil:
		err = errors.New("killed at the end of the watch")
	case errors.As(err, &path):
		err = path.Err // it is said which program
	}
	return fmt.Errorf("run %s: %w%s", c.argv[0], err, optional(": ", printable(stderr.String(), maxStderr)))
}

// tail keeps the last bytes that are written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[max(0, len(p)-maxStderr):]...)
	if over := len(t.b) - maxStderr; over > 0 {
		t.b = t.b[:copy(t.b, t.b[over:])]
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
