package config

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/ruleset"
)

// DefaultPath is where the configuration is looked for when the user names no
// file.
const DefaultPath = "/etc/portmon/portmon.toml"

// maxFileSize bounds the configuration file, in bytes, so that a wrong path (a
// device, a log) cannot eat the memory.
const maxFileSize = 1 << 20

// Reference is the built-in default as a file which explains every key. Parsed,
// it equals [Default].
//
//go:embed portmon.toml
var Reference []byte

// Config is a configuration that has been checked: Spec.Validate returns nil.
type Config struct {
	// Spec is the table: [trap], [scan], [ban] and the whitelists.
	Spec ruleset.Spec

	// Watch holds the settings of the watcher.
	Watch Watch

	// Warnings are what was accepted but should be looked at, ordered as
	// [Errors] are.
	Warnings []Warning

	// Source is the file that the configuration came from, or empty for the
	// built-in default.
	Source string
}

// Watch holds the settings of the watcher, [watch] in the file.
type Watch struct {
	// State is the absolute path of the file in which bans and offences are
	// remembered.
	State string

	// Metrics is the host:port where Prometheus metrics are served; empty is
	// off.
	Metrics string

	// Ntfy is the http or https URL of the ntfy topic which gets the notices;
	// empty is off. NtfyTokenFile is the absolute path of the file that holds
	// its access token; empty is none. The file is not opened here.
	Ntfy, NtfyTokenFile string

	// Command is the program run for each notice, an absolute path, and its
	// arguments; empty is none.
	Command []string
}

// Default returns the configuration of a host that has no file. The caller owns
// all of it.
func Default() *Config {
	return &Config{
		Spec:  ruleset.Default(),
		Watch: Watch{State: "/var/lib/portmon/state.jsonl"},
	}
}

// Load reads the configuration from path, which must exist. With path empty it
// reads [DefaultPath], and returns [Default] where there is no such file.
//
// Every error is of type [Errors]. It matches [fs.ErrNotExist] if the file does
// not exist.
func Load(path string) (*Config, error) {
	if path != "" {
		return load(path)
	}
	return loadOptional(DefaultPath)
}

// loadOptional is load for a file that need not exist.
func loadOptional(path string) (*Config, error) {
	// Lstat, as a symbolic link to nowhere is a configuration that went
	// missing, not one that was never written.
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	return load(path)
}

func load(path string) (*Config, error) {
	data, err := readFile(path, maxFileSize, openFile)
	if err != nil {
		return nil, Errors{{Place: Place{File: path}, Err: withoutPath(err)}}
	}
	return Parse(path, data, openFile)
}

// openFile opens a file that has an end. To open a pipe could block for ever.
func openFile(name string) (io.ReadCloser, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// StatePath returns [Watch.State] of the configuration that [Load] would read.
// Commands that need nothing else of it can do with one that has faults, as
// long as it says this. Every error is that of Load.
func StatePath(path string) (string, error) {
	conf, err := Load(path)
	if err == nil {
		return conf.Watch.State, nil
	}
	var faulty struct {
		Watch struct{ State *string }
	}
	data, readErr := readFile(cmp.Or(path, DefaultPath), maxFileSize, openFile)
	switch {
	case readErr != nil || toml.Unmarshal(withoutBOM(data), &faulty) != nil:
		return "", err
	case faulty.Watch.State == nil:
		return Default().Watch.State, nil
	}
	return *faulty.Watch.State, nil
}

// readFile returns the contents of a file of at most limit bytes.
func readFile(name string, limit int64, open func(string) (io.ReadCloser, error)) ([]byte, error) {
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("larger than the %d bytes allowed", limit)}
	}
	return data, nil
}

// withoutPath drops the path from an error of package os, for a message which
// begins with that path.
func withoutPath(err error) error {
	if perr, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", perr.Op, perr.Err)
	}
	return err
}
