package control

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// listenVariable makes the test binary a program that listens there until it is
// killed.
const listenVariable = "PORTMON_CONTROL_TEST_LISTEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(listenVariable); path != "" {
		if uid, err := strconv.Atoi(os.Getenv(listenVariable + "_AS")); err == nil {
			syscall.Setuid(uid)
		}
		if _, err := Listen(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("listening")
		time.Sleep(time.Hour) // not select {}, which is a deadlock
	}
	os.Exit(m.Run())
}

func TestPath(t *testing.T) {
	if got, want := Path("/var/lib/portmon/state.jsonl"), filepath.Join("/var/lib/portmon", "watch.sock"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
