package packaging

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

const (
	version = "v1.2.3"
	epoch   = "1800000000"
)

var formats = []string{"deb", "rpm", "apk", "tar"}

// The packages under test, by format, those of the hub with "hub " before it. They
// are built once for all tests. A user without Go caches, such as nobody in
// `make test-unprivileged`, names in PORTMON_DIST the folder where they were built
// before, with this version and date.
var built = sync.OnceValues(func() (map[string]string, error) {
	if dist := os.Getenv("PORTMON_DIST"); dist != "" {
		return find(dist)
	}
	return buildCopy("..")
})

// folders are those in which packages were built, each with the sources that they were built from.
var folders []string

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range folders {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// packageFile returns the path of the package of a format.
func packageFile(t *testing.T, format string) string {
	t.Helper()
	needBuilt(t)
	files, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return files[format]
}

// needBuilt passes over a test if the packages cannot be built for want of a
// program.
func needBuilt(t *testing.T) {
	t.Helper()
	for _, name := range []string{"sh", "find", "gzip", "install", "sed", "tar"} {
		lab.Program(t, name)
	}
}

// buildCopy builds the packages from a copy of sources, in a folder of its own.
func buildCopy(from string) (map[string]string, error) {
	dir, err := os.MkdirTemp("", "portmon-packaging-")
	if err != nil {
		return nil, err
	}
	folders = append(folders, dir)
	source := filepath.Join(dir, "source")
	if err := copySources(from, source); err != nil {
		return nil, err
	}
	dist := filepath.Join(dir, "dist")
	build := exec.Command("packaging/build", append(slices.Clone(formats), runtime.GOARCH)...)
	build.Dir = source
	build.Env = append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH="+epoch, "DIST="+dist)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("packaging/build: %w\n%s", err, out)
	}
	return find(dist)
}

// copySources copies the files that are not hidden, such as .git, or built.
func copySources(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(from, path)
		if err := errors.Join(err, relErr); err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && rel != "."
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir() && (hidden || rel == "dist"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case hidden || !d.Type().IsRegular() || filepath.Ext(path) == ".test" || rel == "portmon" || rel == "portmon-hub":
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm())
	})
}

// find returns the packages in a folder.
func find(dist string) (map[string]string, error) {
	files := map[string]string{}
	for format, pattern := range map[string]string{
		"deb": "portmon_*.deb", "rpm": "portmon-[0-9]*.rpm", "apk": "portmon_*.apk", "tar": "portmon-[0-9]*.tar.gz",
		"hub deb": "portmon-hub_*.deb", "hub rpm": "portmon-hub-*.rpm", "hub apk": "portmon-hub_*.apk", "hub tar": "portmon-hub-*.tar.gz",
	} {
		found, err := filepath.Glob(filepath.Join(dist, pattern))
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, errors.New("want one " + pattern + " in " + dist + ", here are " + strings.Join(found, " "))
		}
		files[format] = found[0]
	}
	return files, nil
}

// The bytes depend on the sources, the version and the date alone; not on the path, nor on when they are built.
func TestReproducible(t *testing.T) {
	if os.Getenv("PORTMON_DIST") != "" {
		t.Skip("the packages were built elsewhere: this is tested there")
	}
	needBuilt(t)
	first, err := built()
	if err != nil {
		t.Fatal(err)
	}
	second, err := buildCopy(filepath.Join(folders[0], "source")) // what is edited meanwhile is no difference
	if err != nil {
		t.Fatal(err)
	}
	for format := range first {
		a, errA := os.ReadFile(first[format])
		b, errB := os.ReadFile(second[format])
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(first[format]) != filepath.Base(second[format]) || !bytes.Equal(a, b) {
			t.Errorf("%s and %s differ", first[format], second[format])
		}
	}
}

// tool runs an outside program, and returns what it wrote to both its outputs.
func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(lab.Program(t, name), args...).CombinedOutput()
	return string(out), err
}

// mustTool is tool, for a program that must succeed.
func mustTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tool(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}
