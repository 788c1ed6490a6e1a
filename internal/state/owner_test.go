package state

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// What root writes belongs to whom the directory belongs to: the watcher, if that runs as a user of its own.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	owner := 65534
	if err := os.Chown(dir, owner, owner); errors.Is(err, syscall.EINVAL) {
		owner = os.Getuid() // in a user namespace that has but one user, nobody else can own anything
	} else if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state.jsonl")
	for range 2 {
		if _, err := Write(path, header, slices.Values(sample)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, path + lockSuffix} {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != owner || info.Mode().Perm() != 0o600 {
				t.Errorf("%s belongs to %d, mode %o, want %d and 600", name, uid, info.Mode().Perm(), owner)
			}
		}
	}
}
