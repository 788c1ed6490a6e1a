package control

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

const deadline = 20 * time.Second // ends a test that fails

// listenVariable makes the test binary a program that listens there until it is killed.
const listenVariable = "PORTMON_CONTROL_TEST_LISTEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(listenVariable); path != "" {
		if _, err := Listen(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("listening")
		select {}
	}
	os.Exit(netnstest.Main(m))
}

// folder returns a directory with a short name: that of a socket must not be long.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}

func TestPath(t *testing.T) {
	if got, want := Path("/var/lib/portmon/state.jsonl"), filepath.Join("/var/lib/portmon", "watch.sock"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
