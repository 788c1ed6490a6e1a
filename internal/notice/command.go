package notice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
)

var (
	errTimeout = errors.New("killed because it ran too long")
	errEnded   = errors.New("stopped because the watcher ended")
)

const (
	// commandTimeout is how long a program may run.
	commandTimeout = 30 * time.Second
	// maxStderr is how much is quoted of what it writes to stderr, in bytes
	// from the end.
	maxStderr = 500
)

// Variable is one that a command finds in its environment, unless it does not
// apply or its value is not known.
type Variable struct {
	Name, Meaning string
	value         any // "" or 0 if it is not known
}

// Variables returns those that describe a notice. The last eleven are only set
// for a notice of one event.
func Variables() []Variable { return new(notice).variables() }

func (n *notice) variables() []Variable {
	e, kind, until := &n.event, "summary", ""
	if n.count == 1 {
		kind = e.Event()
	}
	if !e.Forever && e.Until != 0 {
		until = e.at.Time(e.Until).UTC().Format(time.RFC3339)
	}
	return []Variable{
		{"PORTMON_EVENT", `"summary", or what happened: "banned", "escalated", "banned by hand", "lifted", ` +
			`"unbanned by hand", "allowed by hand", "disallowed by hand", "whitelisted", "restored", "table gone", "repaired", "removed", "held back" or "full"; in observe mode ` +
			`"would be banned", "would be escalated" or "would be banned by hand".`, kind},
		{"PORTMON_TITLE", "One line.", n.title},
		{"PORTMON_MESSAGE", "One or more lines.", n.message},
		{"PORTMON_PRIORITY", "2 (low), 3 or 4 (high), as in ntfy.", n.priority},
		{"PORTMON_HOST", "The name of the host.", n.host},
		{"PORTMON_COUNT", "How many events the notice is about.", n.count},
		{"PORTMON_ADDRESS", `The source: an address, or a prefix such as "2001:db8::/64".`, text.Prefix(e.Source)},
		{"PORTMON_COUNTRY", `The code of its country, such as "DE", if a database of [geo] knows it.`, e.place.Country},
		{"PORTMON_ASN", "The number of its network (autonomous system), if one knows it.", e.place.Number()},
		{"PORTMON_NETWORK", "The name of its network, without control characters, if one knows it.", e.place.Network},
		{"PORTMON_TIER", "The step of the ladder, from 1.", e.Step},
		{"PORTMON_CAUSE", `Why it is banned: "trap", "scan", "subnet", "hand" or "other".`, e.Cause.String()},
		{"PORTMON_PROTOCOL", `The protocol of the offence: "tcp", "udp", or a number.`, text.Protocol(e.Proto)},
		{"PORTMON_PORT", "The port of the offence.", int(e.Port)},
		{"PORTMON_OFFENCES", "How many offences of the source are on record.", e.Offences},
		{"PORTMON_UNTIL", "When the ban ends, such as 2026-01-18T19:04:26Z; not set if it does not end.", until},
		{"PORTMON_REASON", "The comment of the ban, without control characters.", e.Comment},
	}
}

// inherited are the variables that a command has from the watcher. Others, such
// as NOTIFY_SOCKET, are for the service alone.
var inherited = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "CREDENTIALS_DIRECTORY"}

func environment(n *notice) []string {
	var env []string
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for _, v := range n.variables() {
		if v.value != "" && v.value != 0 {
			env = append(env, fmt.Sprint(v.Name, "=", v.value))
		}
	}
	return env
}

// command runs a program for each notice.
type command struct {
	argv    []string // an absolute path and arguments
	timeout time.Duration
}

// send runs the program and waits for its end. A program that fails is not run
// again, because it may have done a part of its work.
func (c *command) send(ctx context.Context, n *notice) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer cancel()
	var stderr tail
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = environment(n)
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	// The whole group: what a shell waits for must die with it.
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	// What a program leaves in the background may hold its stderr open.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	err = fmt.Errorf("run %s: %w", c.argv[0], err)
	if said := clean(string(stderr), maxStderr); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// tail keeps the last bytes that are written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-maxStderr):]
	return len(p), nil
}
