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
	"testing"

	"github.com/portmon/portmon/netnstest"
)

// program is the path of portmon.
var program string

func TestMain(m *testing.M) { os.Exit(netnstest.Main(withProgram{m})) }

// withProgram makes portmon before the tests.
type withProgram struct{ netnstest.Runner }

func (w withProgram) Run() int {
	for _, tool := range []string{"fail2ban-server", "fail2ban-client", "fail2ban-python"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "%v: install Debian's fail2ban, which these tests need\n", err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "portmon-fail2ban-")
	if err == nil {
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "portmon")
		err = makeProgram()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return w.Runner.Run()
}

// makeProgram builds portmon. Who has no Go caches, such as nobody in `make test-unprivileged`, names in PORTMON_DIST the folder where
// somebody else built the tar.
func makeProgram() error {
	dist := os.Getenv("PORTMON_DIST")
	if dist == "" {
		out, err := exec.Command("go", "build", "-o", program, "../../cmd/portmon").CombinedOutput()
		if err != nil {
			return fmt.Errorf("go build portmon: %w\n%s", err, out)
		}
		return nil
	}
	found, err := filepath.Glob(filepath.Join(dist, "*.tar.gz"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("want one *.tar.gz in PORTMON_DIST, %s, here are %q: %w", dist, found, err)
	}
	return unpackProgram(found[0])
}

func unpackProgram(archive string) error {
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
