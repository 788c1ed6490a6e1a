package fail2ban

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(withProgram{m}, 6)) }

// folder is for portmon.
var folder string

type withProgram struct{ netnstest.Runner }

func (w withProgram) Run() int {
	var err error
	if folder, err = os.MkdirTemp("", "portmon-fail2ban-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	return w.Runner.Run()
}

// portmon builds the program once, for the first test that runs, and returns
// its path. A user without Go caches, such as nobody in `make
// test-unprivileged`, names in PORTMON_DIST the folder that has a tar of it.
var portmon = sync.OnceValues(func() (string, error) {
	program, dist := filepath.Join(folder, "portmon"), os.Getenv("PORTMON_DIST")
	if dist == "" {
		out, err := exec.Command("go", "build", "-C", "../..", "-o", program, "./cmd/portmon").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go build portmon: %w\n%s", err, out)
		}
		return program, nil
	}
	found, err := filepath.Glob(filepath.Join(dist, "portmon-[0-9]*.tar.gz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("want one *.tar.gz in PORTMON_DIST, %s, here are %q: %w", dist, found, err)
	}
	return program, unpackProgram(found[0], program)
})

func unpackProgram(archive, program string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			return fmt.Errorf("unpack portmon of %s: %w", archive, err)
		}
		if path.Base(h.Name) != "portmon" || h.Mode&0o100 == 0 { // a completion has the name too
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("unpack portmon of %s: %w", archive, err)
		}
		return os.WriteFile(program, data, 0o755)
	}
}
