package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// The test binary is other programs too: by its environment the daemon, which
// is to listen in the namespace of a host with all of its goroutines, and by
// its first argument a command that is run for a notice, and gets nothing of
// our environment.
const (
	configVariable   = "PORTMON_DAEMON_TEST_CONFIG"
	watchdogVariable = "PORTMON_DAEMON_TEST_WATCHDOG"

	roleNote = "note-the-notice"
	roleHang = "hang-on-the-notice"
)

const hostName = "gate.example"

func TestMain(m *testing.M) {
	var err error
	switch path := os.Getenv(configVariable); {
	case len(os.Args) == 3 && os.Args[1] == roleNote:
		err = note(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == roleHang:
		if err = note(os.Args[2]); err == nil {
			time.Sleep(time.Hour) // not select {}, which is a deadlock where cgo has no threads of its own
		}
	case path != "":
		err = runDaemon(path)
	default:
		os.Exit(lab.Main(m, 12))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runDaemon is `portmon watch`, but that systemd is a file descriptor.
func runDaemon(path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	conf, err := config.Load(path)
	if err != nil {
		return err
	}
	watchdog, err := time.ParseDuration(os.Getenv(watchdogVariable))
	if err != nil {
		return err
	}
	return Run(ctx, Config{
		Config: conf, Load: func() (*config.Config, error) { return config.Load(path) },
		Stderr: os.Stderr, Times: true, Version: "1.2.3", Host: hostName,
		Dial:   func() (*nftset.Conn, error) { return nftset.Dial(nil) },
		Notify: func(state string) { fmt.Printf("%q\n", state) }, Watchdog: watchdog,
	}, reload)
}

// note writes the variables of a notice to a new file in a directory, as JSON.
func note(dir string) error {
	got := make(map[string]string)
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		got[name] = value
	}
	text, err := json.Marshal(got)
	if err != nil {
		return err
	}
	part := filepath.Join(dir, fmt.Sprintf("part%d", os.Getpid()))
	if err := os.WriteFile(part, text, 0o600); err != nil {
		return err
	}
	return os.Rename(part, strings.Replace(part, "part", "notice", 1))
}

// notes returns the notices that were written to a directory.
func notes(t testing.TB, dir string) (all []map[string]string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "notice*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		var got map[string]string
		text, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got)
	}
	return all
}
