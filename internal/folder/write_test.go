package folder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file is replaced as a whole, whatever an interrupted process has left, and
// neither written nor read through a link.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, filepath.Join(dir, "name.tmp"), "left behind")
	for _, text := range []string{"first", "second, longer", ""} {
		if err := d.WriteFile("name", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := d.ReadFile("name", 20); err != nil || string(got) != text {
			t.Errorf("%q, %v: want %q", got, err, text)
		}
	}
	if err := d.WriteFile("name", []byte(strings.Repeat("x", 21))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadFile("name", 20); !errors.As(err, new(*RefusedError)) {
		t.Errorf("a file that is too large: %v", err)
	}
	other := filepath.Join(dir, "other")
	write(t, other, "precious")
	for _, name := range []string{"link", "target.tmp"} {
		if err := os.Symlink(other, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, readErr := d.ReadFile("link", 20)
	for _, err := range []error{readErr, d.WriteFile("link", nil), d.WriteFile("target", nil)} {
		if !errors.As(err, new(*RefusedError)) {
			t.Errorf("a link: %v", err)
		}
	}
	if text, err := os.ReadFile(other); err != nil || string(text) != "precious" {
		t.Errorf("what the link leads to: %q, %v", text, err)
	}
}
