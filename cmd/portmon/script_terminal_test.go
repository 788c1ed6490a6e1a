package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/portmon/portmon/internal/lab"
)

// onTerminal are what scripts can do with a terminal: ask tmux, see what it shows,
// press keys, and learn the process that fills it.
var onTerminal = map[string]string{
	"terminal": `exec tmux -S SOCKET "$@"`,
	"screen":   `exec tmux -S SOCKET capture-pane -p "$@"`,
	"keys":     `exec tmux -S SOCKET send-keys "$@"`,
	"top-pid": `shell=$(tmux -S SOCKET display-message -p '#{pane_pid}')
for stat in /proc/[0-9]*/stat; do
	read -r pid _ _ parent _ < "$stat" && if [ "$parent" = "$shell" ]; then echo "$pid"; fi
done 2>/dev/null`,
}

// scriptTerminal runs a shell command on the host in a terminal of 80 columns
// and 24 lines, in place of the one before. What it has written stays to be seen.
func scriptTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: terminal COMMAND")
	}
	lab.Program(ts.Value(testKey{}).(testing.TB), "tmux")
	// A server that is told to end takes its time, so each has a socket of its own.
	dir, err := os.MkdirTemp(ts.MkAbs("."), "t")
	ts.Check(err)
	socket := filepath.Join(dir, "s")
	for name, script := range onTerminal {
		script = "#!/bin/bash\n" + strings.ReplaceAll(script, "SOCKET", socket) + "\n"
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(".bin"), name), []byte(script), 0o755))
	}
	ts.Defer(func() { _ = ts.Exec("tmux", "-S", socket, "kill-server") })
	runOnHost(ts, false, 0, "with-etc", "tmux", "-S", socket, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", args[0]+"; exec cat")
}
