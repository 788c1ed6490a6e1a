package nixos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

// nix runs nix-instantiate, which gets neither a store nor a network, and returns what it wrote.
func nix(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(lab.Program(t, "nix-instantiate"), append([]string{"--store", "dummy://"}, args...)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "NIX_CONF_DIR=" + dir, "NIX_STATE_DIR=" + dir,
		"NIX_CONFIG=build-users-group =\nsubstitute = false",
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, &stderr)
	}
	if stderr.Len() > 0 {
		t.Errorf("nix-instantiate says: %s", &stderr)
	}
	return stdout.Bytes(), nil
}

// module is the module with what a user has set, evaluated by testdata/eval.nix.
type module struct {
	Enabled  bool
	Options  map[string]any
	Settings map[string]any
	Failed   []string // messages of assertions
	File     string   // the script that makes portmon.toml, or its content
	Ports    any      // opened in the firewall
	Programs []string
	Services map[string]service
}

// try evaluates the module with what a Nix expression sets in services.portmon.
func try(t *testing.T, user string) (*module, error) {
	t.Helper()
	return tryModule(t, "portmon", user)
}

// tryModule evaluates a module that sets the services of its name.
func tryModule(t *testing.T, name, user string) (*module, error) {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	// Paths in the expression start where it stands.
	cmd := fmt.Sprintf(`import %[1]s/testdata/eval.nix { module = %[1]s/%[3]s.nix; user = %[2]s; name = "%[3]s"; }`, dir, user, name)
	out, err := nix(t, "--eval", "--strict", "--json", "-E", cmd)
	if err != nil {
		return nil, err
	}
	m := new(module)
	if err := json.Unmarshal(out, m); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return m, nil
}

func evaluate(t *testing.T, user string) *module {
	t.Helper()
	m, err := try(t, user)
	if err != nil {
		t.Fatalf("%s: %v", user, err)
	}
	return m
}

func TestParse(t *testing.T) {
	for _, name := range []string{"portmon.nix", "portmon-hub.nix", "package.nix"} {
		if _, err := nix(t, "--parse", name); err != nil {
			t.Error(err)
		}
	}
	var exit *exec.ExitError
	if _, err := nix(t, "--parse", "-E", "{ a = ; }"); !errors.As(err, &exit) {
		t.Errorf("no syntax: %v", err)
	}
}

// The packages are of the sources beside them, and have what the debs and rpms have.
func TestPackage(t *testing.T) {
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(filepath.Dir(dir))
	for _, program := range []string{"portmon", "portmon-hub"} {
		out, err := nix(t, "--eval", "--strict", "--json", "-E", fmt.Sprintf(`
			let lib = { cleanSource = toString; fakeHash = "none"; licenses.mit = "MIT"; platforms.linux = [ "linux" ]; };
			in import %s/package.nix { inherit lib; buildGoModule = package: package; installShellFiles = "installShellFiles"; program = "%s"; }`, dir, program))
		if err != nil {
			t.Fatal(err)
		}
		var p struct {
			Src, Pname, ModRoot, VendorHash, PostInstall string
			SubPackages                                  []string
			Meta                                         struct{ MainProgram, License string }
		}
		if err := json.Unmarshal(out, &p); err != nil {
			t.Fatal(err)
		}
		if p.Src != root || p.Pname != program || p.VendorHash != "none" || p.Meta.MainProgram != program || p.Meta.License != "MIT" || len(p.SubPackages) != 1 {
			t.Errorf("%+v", p)
		}
		for _, sub := range p.SubPackages {
			if _, err := os.Stat(filepath.Join(root, p.ModRoot, sub, "main.go")); err != nil || filepath.Base(filepath.Join(root, p.ModRoot, sub)) != program {
				t.Errorf("%s is of %s: %v", program, sub, err)
			}
		}
		files := 0
		for word := range strings.FieldsSeq(p.PostInstall) {
			if strings.Contains(word, "packaging/") && !strings.HasPrefix(word, "$") {
				files++
				if found, err := filepath.Glob(filepath.Join(root, p.ModRoot, word)); err != nil || len(found) == 0 {
					t.Errorf("%s is not in the source (%v)", word, err)
				}
			}
		}
		if files == 0 {
			t.Errorf("%s has no manual: %s", program, p.PostInstall)
		}
	}
}
