// Package config reads portmon's configuration: TOML in, a [ruleset.Spec] and
// the watcher's settings out.
//
// It is strict. An unknown key, a value of the wrong type or outside its
// range, ports that overlap and a whitelist file that cannot be read are all
// faults. [Load] reports up to 20 faults of the file and of its whitelist files
// at once, each with its line, as [Errors]; only a fault that keeps the file from
// being read as TOML hides the others. What is accepted but probably not meant,
// such as a whitelisted network with host bits set, becomes a warning.
//
// [Reference] is the default configuration as a file, with every key explained.
// It is what a user should read.
package config

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// DefaultPath is where the configuration is looked for when the user names no
// file.
const DefaultPath = "/etc/portmon/portmon.toml"

// maxFileSize bounds the configuration file, in bytes, so that a wrong path (a
// device, a log) cannot eat the memory.
const maxFileSize = 1 << 20

// Reference is the built-in default as a file that explains every key. Parsed,
// it equals [Default].
//
//go:embed portmon.toml
var Reference []byte

// Config is a configuration that has been checked: Spec.Validate returns nil.
type Config struct {
	// Spec is the table: [trap], [scan], [ban], [knock], the mode and the
	// whitelists.
	Spec ruleset.Spec

	// Login is how long a host is allowed that has logged in, login of [allow];
	// 0 is off.
	Login time.Duration

	// Names are the host names whose addresses the watcher has allowed: sorted, in
	// lower case, and without a dot at the end.
	Names []string

	// Geo are the absolute paths of the databases that tell countries and
	// networks, databases of [geo]. The files are not opened here.
	Geo []string

	// FleetMaxBan is the longest ban that a fleet can have in force here,
	// max_bantime of [fleet]; 0 is none.
	FleetMaxBan time.Duration

	// AbuseIPDBKeyFile is the absolute path of the file that holds the key for
	// reports to AbuseIPDB; empty is off. The file is not opened here.
	AbuseIPDBKeyFile string

	// Watch holds the settings of the watcher.
	Watch Watch

	// Warnings are what was accepted but should be looked at, in the order of
	// [Errors].
	Warnings []*Error

	// Source is the absolute path of the file that the configuration came from, or
	// empty for the built-in default.
	Source string
}

// Watch holds the settings of the watcher, [watch] in the file.
type Watch struct {
	// State is the absolute path of the file in which bans and offences are
	// remembered. Only [Salvage] leaves it empty.
	State string

	// Metrics is the host:port where Prometheus metrics are served; empty is
	// off.
	Metrics string

	// Ntfy is the http or https URL of the ntfy topic that gets the notices;
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
		Login: 7 * 24 * time.Hour,

		FleetMaxBan: 3 * 24 * time.Hour,

		Watch: Watch{State: "/var/lib/portmon/state.jsonl"},
	}
}

// Load reads the configuration from path, which must exist. With path empty it
// reads [DefaultPath], and returns [Default] where there is no such file.
//
// Every error is of type [Errors]. It matches [fs.ErrNotExist] if the file does
// not exist.
func Load(path string) (*Config, error) {
	conf, faults := load(path, DefaultPath, (*reader).read)
	if len(faults) > 0 {
		return nil, faults
	}
	return conf, nil
}

// Glance returns [Watch.State], [Config.Login] and [Config.Geo] of the
// configuration that [Load] would read, for commands that need nothing else of
// it: what is wrong with the rest does not matter, and whitelist files, which can
// be large, are not read. If the file cannot be read, or is no TOML and does not
// say the first of them, or that has a fault, that is the error; without a good
// value, the others are the default.
func Glance(path string) (state string, login time.Duration, databases []string, err error) {
	conf, faults := load(path, DefaultPath, (*reader).glance)
	if conf == nil {
		return "", Default().Login, nil, faults
	}
	if conf.Watch.State == "" {
		return "", conf.Login, conf.Geo, faults
	}
	return conf.Watch.State, conf.Login, conf.Geo, nil
}

// Salvage returns what can be read of a configuration that [Load] refuses: what
// has a fault is as in [Default], but for [Watch.State], which is empty if it is
// not known.
func Salvage(path string) *Config {
	conf, _ := load(path, DefaultPath, (*reader).read)
	if conf == nil {
		conf = Default()
		conf.Source, conf.Watch.State = absolute(cmp.Or(path, DefaultPath)), ""
	}
	return conf
}

// load reads the configuration from path, or from optional if path is empty. It
// returns as much as could be understood of a file with faults, and nil if it
// could not be read.
func load(path, optional string, read func(*reader, map[string]any)) (*Config, Errors) {
	if path == "" {
		path = optional
		// Lstat, as a symbolic link to nowhere is a configuration that went
		// missing, not one that was never written.
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return Default(), nil
		}
	}
	data, err := ReadFile(path, maxFileSize)
	var perr *fs.PathError
	if errors.As(err, &perr) {
		err = perr.Err // without the path, with which the message begins
	}
	if err != nil {
		return nil, Errors{{File: path, Err: err}}
	}
	conf, faults := parse(path, data, openFile, read)
	if conf != nil {
		conf.Source = absolute(path)
	}
	return conf, faults
}

// absolute returns a path that does not depend on the folder that a process is
// in.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// ReadFile returns the contents of a regular file of at most limit bytes.
func ReadFile(name string, limit int64) ([]byte, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("larger than %s", text.Size(limit))}
	}
	return data, err
}

// openFile opens regular files only: a pipe could block for ever, and a device
// never end.
func openFile(name string) (fs.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
