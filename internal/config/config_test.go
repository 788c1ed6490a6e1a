package config

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func TestDefault(t *testing.T) {
	c := Default()
	if err := c.Spec.Validate(); err != nil {
		t.Error(err)
	}
	if c.Watch.State != "/var/lib/portmon/state.jsonl" || c.Source != "" {
		t.Errorf("the default is %+v", c)
	}
}

// The reference file says what happens without it.
func TestReferenceIsDefault(t *testing.T) {
	want := Default()
	want.Source = "p.toml"
	if diff := diffConfig(want, mustParse(t, string(Reference))); diff != "" {
		t.Errorf("(-default +reference)\n%s", diff)
	}
}

// Every key is in the reference file, with its default, and
// with something said about it.
func TestReferenceHasEveryKey(t *testing.T) {
	root, places, fault := decode("portmon.toml", Reference)
	if fault != nil {
		t.Fatal(fault)
	}
	r := reader{places: places, config: Default()}
	r.read(root)
	var keys []string
	for _, t := range r.tables {
		for _, name := range t.known {
			keys = append(keys, t.prefix+name)
		}
	}
	text := strings.Split(string(Reference), "\n")
	for _, key := range keys {
		at, found := places[key]
		if !found {
			t.Errorf("the reference file does not have %s", key)
		} else if before := text[at.line-2]; !strings.HasPrefix(before, "# ") {
			t.Errorf("%s has no comment: the line before it is %q", key, before)
		}
	}
	if len(keys) < 20 {
		t.Errorf("the schema has %d keys", len(keys))
	}
}

// The ranges which the reference file promises are those of a Spec.
func TestReferenceHasRanges(t *testing.T) {
	for _, want := range []string{
		"from " + text.Duration(minDuration) + " to " + text.Duration(maxDuration),
		"an offence, 1 to " + strconv.Itoa(ruleset.MaxRetryLimit),
		"an offence, 0 to " + strconv.Itoa(ruleset.MaxRetryLimit),
		"from 0s to " + text.Duration(ruleset.MaxGrace),
		"from 1s to " + text.Duration(ruleset.MaxFindTime),
		"1 to " + strconv.Itoa(ruleset.MaxSteps) + " durations",
		"1 to " + strconv.Itoa(ruleset.MaxSize),
		"1 to 128",
		"from 1 to 65535",
		text.Size(maxWhitelistSize),
	} {
		if !bytes.Contains(Reference, []byte(want)) {
			t.Errorf("the reference file does not say %q", want)
		}
	}
}

// The examples in the reference file work, all at once.
func TestReferenceExamples(t *testing.T) {
	var examples int
	text := strings.Split(string(Reference), "\n")
	for i, line := range text {
		if example, ok := strings.CutPrefix(line, "# Example: "); ok {
			examples++
			// In place of the default, which follows the comment.
			text[i], text[i+1] = "", example
		}
	}
	if examples < 7 {
		t.Errorf("%d examples: want at least 7", examples)
	}
	open := files(map[string]string{"whitelist.txt": "", "/etc/ansible/offices.txt": ""})
	c, err := parsed("p.toml", []byte(strings.Join(text, "\n")), open)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 || c.Watch.Metrics == "" || c.Watch.Ntfy == "" || c.Watch.NtfyTokenFile == "" || c.Watch.Command == nil {
		t.Errorf("with the examples: %+v", c)
	}
}

// The example of the README is accepted as it is.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```toml\n")
	example, _, _ := strings.Cut(rest, "```\n")
	c, err := parsed("README.md", []byte(example), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 || len(c.Names) != 1 || len(c.Spec.Interfaces) != 1 || len(c.Spec.Knock.TCP) != 3 || c.Spec.Knock.Allow != 10*time.Minute {
		t.Errorf("the example is %+v, with the warnings %v", c, c.Warnings)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(writeFiles(t, map[string]string{"a.toml": "[trap]\nmaxretry = 5"}), "a.toml")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Spec.MaxRetry != 5 || c.Source != path {
		t.Errorf("maxretry %d from %q: want 5 from %q", c.Spec.MaxRetry, c.Source, path)
	}
}

func TestLoadFaults(t *testing.T) {
	dir := writeFiles(t, map[string]string{"large.toml": strings.Repeat("#", maxFileSize) + "\n"})
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, want string }{
		{dir + "/pipe", dir + "/pipe: not a regular file"},
		{"/dev/zero", "/dev/zero: not a regular file"},
		{dir + "/missing.toml", dir + "/missing.toml: no such file or directory"},
		{dir, dir + ": not a regular file"},
		{dir + "/large.toml/a.toml", dir + "/large.toml/a.toml: not a directory"},
		{dir + "/large.toml", dir + "/large.toml: larger than 1 MiB"},
	}
	for _, tt := range tests {
		c, err := Load(tt.path)
		if ok := errors.As(err, new(Errors)); !ok || c != nil || err.Error() != tt.want {
			t.Errorf("Load(%q) = %v, %v: want the error %s", tt.path, c, err, tt.want)
		}
		if state, login, _, err := Glance(tt.path); err == nil || err.Error() != tt.want || login != Default().Login {
			t.Errorf("Glance(%q) = %q, %v, %v: want the error %s", tt.path, state, login, err, tt.want)
		}
	}
	if _, err := Load(dir + "/missing.toml"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the error does not match fs.ErrNotExist")
	}
}

// Only a file that was never there means the default: one that cannot be
// read is an error, and so is a link to nowhere.
func TestLoadOptional(t *testing.T) {
	dir := writeFiles(t, map[string]string{"good.toml": "[trap]\nmaxretry = 5", "bad.toml": "x"})
	if err := os.Symlink("nowhere", filepath.Join(dir, "link.toml")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"missing.toml", "missing/portmon.toml"} {
		c, err := load("", filepath.Join(dir, path), (*reader).read)
		if err != nil {
			t.Fatal(err)
		}
		if diff := diffConfig(Default(), c); diff != "" {
			t.Errorf("without a file (-want +got)\n%s", diff)
		}
	}
	if c, err := load("", filepath.Join(dir, "good.toml"), (*reader).read); err != nil || c.Spec.MaxRetry != 5 {
		t.Errorf("with a file: %v, %v", c, err)
	}
	for _, path := range []string{"bad.toml", "link.toml", "good.toml/portmon.toml", "."} {
		if c, err := load("", filepath.Join(dir, path), (*reader).read); err == nil {
			t.Errorf("%s: no error, but %+v", path, c)
		}
	}
}

// A file with faults still says where the state is, and for how long logins are
// allowed, if that much can be read. The files that it names are not opened.
func TestGlance(t *testing.T) {
	week, day := Default().Login, 24*time.Hour
	for text, want := range map[string]struct {
		state string
		login time.Duration
	}{
		"[watch]\nstate = \"/a/b\"\n[allow]\nlogin = \"1d\"":      {"/a/b", day},
		"[trap]\nmaxretry = 0\n[watch]\nstate = \"/a/b\"":         {"/a/b", week},
		"[trap]\nmaxretry = 0\n[allow]\nlogin = 0":                {Default().Watch.State, 0},
		"[watch]\nstate = 5\n[allow]\nlogin = \"1d\"":             {"", day},
		"[allow]\nlogin = \"soon\"":                               {Default().Watch.State, week},
		"[allow]\nlogin = 5\n[watch\n":                            {"", 5 * time.Second},
		"[trap\n[watch]\nstate = \"/a/b\"\n[allow]\nlogin = 0":    {"/a/b", 0},
		"whitelist = [\n[watch]\nstate = \"/a/b\"":                {"/a/b", week},
		"watch.state = \"/a/b\"\n[trap]\ntcp = [":                 {"/a/b", week},
		"watch.state = \"/a/b\"\nwhitelist = [\n\n5\n[trap]":      {"/a/b", week},
		"whitelist = [\nwatch.state = \"/a/b\"\n[trap]":           {"", week},
		"[watch]\nstate = \"/a/b\"\nntfy = [":                     {"/a/b", week},
		"[watch]\nntfy = [\nstate = \"/a/b\"":                     {"", week},
		"[watch]\nstate = \"/a\"\n[watch]\nstate = \"/b\"":        {"", week},
		"[watch]\nmetrics = \"\"\n[trap\n":                        {"", week},
		"whitelist_files = [\"pipe\"]\n[watch]\nstate = \"/a/b\"": {"/a/b", week},
	} {
		dir := writeFiles(t, map[string]string{"a.toml": text})
		if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
			t.Fatal(err)
		}
		state, login, _, err := Glance(filepath.Join(dir, "a.toml"))
		if state != want.state || login != want.login || (err == nil) != (state != "") {
			t.Errorf("%q: %q, %v, %v, want %v", text, state, login, err, want)
		}
	}
}
