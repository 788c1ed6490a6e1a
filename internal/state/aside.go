package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keptAside is how many files of a kind are kept, the newest.
const keptAside = 3

// keepAside saves what is at path from being overwritten, if it is worth it, and returns the name under which it is kept. The file
// itself stays until it is replaced, so that there is no moment without a state. The error is a *ForeignError if it must not be
// replaced.
func keepAside(path string, h Header) (aside string, err error) {
	kind, err := asideKind(path, h)
	if err != nil || kind == "" {
		return "", err
	}
	names, err := siblings(path, filepath.Base(path)+"."+kind+"-")
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		// An earlier Write kept it, and then failed.
		if kept, err := os.Stat(name); err == nil && os.SameFile(kept, info) {
			return name, nil
		}
	}
	aside, err = linkAside(path, path+"."+kind+"-"+h.Saved.Wall.UTC().Format("20060102T150405.000Z"))
	if err != nil {
		return "", fmt.Errorf("keep the %s file aside: %w", kind, err)
	}
	return aside, prune(append(names, aside))
}

// asideKind returns the word for what is not a sound state of this version and machine, or "" if it is one, or nothing.
func asideKind(path string, h Header) (string, error) {
	f, err := openFile(path)
	var version *VersionError
	switch {
	case errors.As(err, &version):
		return fmt.Sprintf("version-%d", version.Version), nil
	case err != nil:
		return "", err
	}
	defer f.Close()
	switch {
	case f.report.Condition == Missing || f.report.Condition == Empty:
		return "", nil
	case f.report.HeaderLost:
		return "damaged", nil
	case f.otherMachine(h.Origin):
		return "other-machine", nil
	default:
		if _, err := f.file.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
		if !sound(f.file) {
			return "damaged", nil
		}
		return "", nil
	}
}

// linkAside gives a file a second name, or where the file system has no such thing, a new one. If the name is taken, a number is
// added to it.
func linkAside(path, name string) (string, error) {
	for n := 2; ; n++ {
		try := name
		if n > 2 {
			try = fmt.Sprintf("%s-%d", name, n-1)
		}
		err := os.Link(path, try)
		switch {
		case err == nil:
			return try, nil
		case errors.Is(err, fs.ErrExist):
		case errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission): // EPERM on file systems such as FAT
			return try, os.Rename(path, try)
		default:
			return "", err
		}
	}
}

// prune removes the first of the files that were kept aside, if there are too many. Their names are in the order of the times in
// them, but for the last: that was kept just now, and is not removed even if the clock says that it is the oldest.
func prune(names []string) error {
	for len(names) > keptAside {
		if err := os.Remove(names[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		names = names[1:]
	}
	return nil
}

// siblings returns the paths of the files in the directory of path whose names begin with prefix.
func siblings(path, prefix string) ([]string, error) {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, err
}
