package notice

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

// newRealNtfy prepares a real server, with files of its own. If it is private,
// there are two users: one may publish, and one may all.
func newRealNtfy(t *testing.T, private bool) *ntfyd {
	r := &realNtfy{binary: lab.Program(t, "ntfy"), dir: t.TempDir()}
	config := fmt.Sprintf("cache-file: %q\nweb-root: disable\n", r.path("cache.db"))
	if private {
		config += fmt.Sprintf("auth-file: %q\nauth-default-access: deny-all\n", r.path("auth.db"))
	}
	if err := os.WriteFile(r.path("server.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &ntfyd{
		serve:  func(addr string) { r.serve(t, addr) },
		grant:  func() string { return r.token(t, "publisher") },
		revoke: func(token string) { r.run(t, "token", "remove", "publisher", token) },
	}
	if private {
		// Unless the file is there, the commands want a server to have made it.
		if err := os.WriteFile(r.path("auth.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r.run(t, "user", "add", "publisher")
		r.run(t, "access", "publisher", "portmon-*", "write-only")
		r.run(t, "user", "add", "--role=admin", "reader")
		d.reader = r.token(t, "reader")
	}
	return d
}

type realNtfy struct{ binary, dir string }

func (r *realNtfy) path(name string) string { return filepath.Join(r.dir, name) }

// command returns a command of ntfy, which knows nothing of whatever this user
// has configured.
func (r *realNtfy) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(r.binary, append([]string{name, "--config", r.path("server.yml")}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = []string{"HOME=" + r.dir, "PATH=" + os.Getenv("PATH"), "NTFY_PASSWORD=of-no-account"}
	return cmd
}

func (r *realNtfy) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := r.command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ntfy %s %s: %v: %s", name, args, err, out)
	}
	return string(out)
}

var tokenPattern = regexp.MustCompile(`\btk_[0-9a-z]+\b`)

func (r *realNtfy) token(t *testing.T, user string) string {
	t.Helper()
	out := r.run(t, "token", "add", user)
	token := tokenPattern.FindString(out)
	if token == "" {
		t.Fatalf("ntfy token add: no token in %q", out)
	}
	return token
}

// serve starts the server, waits until it is healthy, and kills it at the end
// of the test.
func (r *realNtfy) serve(t *testing.T, addr string) {
	t.Helper()
	var log bytes.Buffer
	cmd := r.command("serve", "--listen-http", addr)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stop := func() error {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		return <-exited
	}
	for deadline := time.Now().Add(time.Minute); !healthy(t, addr); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-exited:
			t.Fatalf("ntfy serve: %v: %s", err, &log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("ntfy serve: not healthy in a minute: %v: %s", stop(), &log)
		}
	}
	t.Cleanup(func() {
		err := stop()
		if t.Failed() {
			t.Logf("ntfy serve: %v: %s", err, &log)
		}
	})
}

func healthy(t *testing.T, addr string) bool {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
