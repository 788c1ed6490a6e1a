package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// parse reads a configuration: as much as it can of a file with faults, and nil
// if it is not TOML. What the file does not mention keeps its default.
//
// Name is the name of the file, for messages; relative names of whitelist files
// start from its folder. Open opens a whitelist file, as [openFile] does.
func parse(name string, data []byte, open func(name string) (fs.File, error)) (*Config, Errors) {
	d, fault := decode(name, data)
	if fault != nil {
		return nil, Errors{fault}
	}
	r := reader{document: d, open: open, config: Default()}
	r.config.Source = name
	r.read()
	r.config.Warnings = append(inOrder(r.warnings), r.fileWarnings...)
	return r.config, append(inOrder(r.faults), r.fileFaults...)
}

// inOrder sorts what was found in the configuration file, and limits it.
func inOrder(found Errors) Errors {
	slices.SortStableFunc(found, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return limited(found)
}

// reader turns a document into a Config. It goes on after a fault, to find them
// all.
type reader struct {
	*document
	open   func(name string) (fs.File, error)
	config *Config
	known  []string // the keys that were asked for, in full

	faults, warnings         Errors // of the configuration file
	fileFaults, fileWarnings Errors // of the whitelist files, in their final order
}

// get returns the value of a key, and makes it one that the file may have.
func (r *reader) get(key string) setting {
	r.known = append(r.known, key)
	return setting{key, r.value(key)}
}

func (r *reader) fault(s setting, format string, args ...any) {
	r.faults = append(r.faults, r.report(s, fmt.Errorf(format, args...)))
}

func (r *reader) warn(s setting, what string) {
	r.warnings = append(r.warnings, r.report(s, errors.New(what)))
}

func (r *reader) report(s setting, err error) *Error {
	at := r.find(s.key)
	return &Error{File: r.file, Line: at.line, Column: at.column, Key: s.key, Value: source(s.value), Err: err}
}

func (r *reader) read() {
	r.readWhitelists()
	r.readOffences()
	r.readBan()
	r.readWatch()
	r.checkKeys()
	r.validate()
	r.doubt()
}

// readOffences reads [trap] and [scan].
func (r *reader) readOffences() {
	spec := &r.config.Spec
	r.ports("trap.tcp", &spec.TrapTCP)
	r.ports("trap.udp", &spec.TrapUDP)
	r.duration("trap.grace", &spec.Grace, 0, ruleset.MaxGrace)
	r.integer("trap.maxretry", &spec.MaxRetry, 1, ruleset.MaxRetryLimit)
	r.duration("trap.findtime", &spec.FindTime, minDuration, ruleset.MaxFindTime)

	r.integer("scan.ports", &spec.Scan.Ports, 0, ruleset.MaxRetryLimit)
	r.duration("scan.findtime", &spec.Scan.FindTime, minDuration, ruleset.MaxFindTime)
	r.ports("scan.ignore", &spec.Scan.Ignore)
}

func (r *reader) readBan() {
	spec := &r.config.Spec
	r.ladder("ban.bantime", &spec.BanTime)
	r.duration("ban.forget", &spec.Forget, minDuration, maxDuration)
	r.integer("ban.prefix6", &spec.Prefix6, 1, 128)
	list(r, r.get("ban.single6"), &spec.Single6, "IPv6 prefixes", r.single6)
	r.integer("ban.subnet4", &spec.Subnet4, 0, ruleset.MaxRetryLimit)
	r.integer("ban.subnet6", &spec.Subnet6, 0, ruleset.MaxRetryLimit)
	size := int(spec.Size)
	r.integer("ban.size", &size, 1, ruleset.MaxSize)
	spec.Size = uint32(size)
}

func (r *reader) readWatch() {
	w := &r.config.Watch
	r.text("watch.state", &w.State, isFilePath, `the absolute path of a file, such as "/var/lib/portmon/state.jsonl"`)
	r.text("watch.metrics", &w.Metrics, isMetrics, `an address and a port, such as "127.0.0.1:9713", or "" for none`)
	r.text("watch.ntfy", &w.Ntfy, isTopic, `an http or https URL with a topic and without a password, such as `+
		`"https://ntfy.sh/my-topic", or "" for none`)
	r.text("watch.ntfy_token_file", &w.NtfyTokenFile, func(s string) bool { return s == "" || isFilePath(s) },
		`the absolute path of a file, or "" for none`)
	first := true
	list(r, r.get("watch.command"), &w.Command, "strings, the program and its arguments,", func(item setting) (string, error) {
		arg, ok := item.value.(string)
		isProgram := first
		first = false
		switch {
		case isProgram && !isFilePath(arg):
			return "", errors.New("want the absolute path of a program first: there is no shell and no PATH")
		case !ok || strings.Contains(arg, "\x00"):
			return "", errors.New("want a string without NUL")
		}
		return arg, nil
	})
}

// doubt warns of what the file says and its author may not have meant.
func (r *reader) doubt() {
	spec, w := &r.config.Spec, &r.config.Watch
	metrics, _ := metricsAddr(w.Metrics)
	for _, d := range []struct {
		key  string
		here bool
		what string
	}{
		{
			"trap.tcp", len(spec.TrapTCP)+len(spec.TrapUDP)+spec.Scan.Ports == 0,
			"there are no traps and scan detection is off: nothing is banned except by hand",
		},
		{
			"ban.prefix6", spec.Prefix6 > 64,
			"a host usually has a /64 to itself: it evades the ban with another address from it",
		},
		{"ban.prefix6", spec.Prefix6 < 48, "a customer has at most a /48: one offence bans many customers"},
		{"ban.subnet4", spec.Subnet4 == 1, "one offence bans the whole /24"},
		{"ban.subnet6", spec.Subnet6 == 1 && spec.Prefix6 > 48, "one offence bans the whole /48"},
		{
			"ban.subnet6", spec.Subnet6 > 0 && spec.Prefix6 <= 48,
			"not used, as with this prefix6 every source is a /48 or more already",
		},
		{
			"watch.metrics", w.Metrics != "" && !metrics.Addr().IsLoopback(),
			"not a loopback address: anybody who can reach it can read the metrics",
		},
		{"watch.ntfy_token_file", w.NtfyTokenFile != "" && w.Ntfy == "", "not used, as ntfy is off"},
		{
			"watch.ntfy", w.NtfyTokenFile != "" && strings.HasPrefix(strings.ToLower(w.Ntfy), "http:"),
			"the access token is sent unencrypted: want https",
		},
	} {
		if s := (setting{d.key, r.value(d.key)}); d.here && s.value != nil {
			r.warn(s, d.what)
		}
	}
}

// checkKeys reports the keys and tables that were not asked for.
func (r *reader) checkKeys() {
	names := slices.Clone(r.known) // and the tables
	for _, key := range r.known {
		if table, _ := split(key); table != "" && !slices.Contains(names, table) {
			names = append(names, table)
		}
	}
	check := func(values map[string]any, table string) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			key, what := fullName(name), "key"
			if table != "" {
				key = table + "." + key
			}
			if _, ok := values[name].(map[string]any); ok {
				what = "table"
			}
			if !slices.Contains(names, key) {
				r.fault(setting{key: key}, "unknown %s: %s", what, suggest(table, name, names))
			}
		}
	}
	check(r.root, "")
	for _, table := range names[len(r.known):] {
		values, ok := r.root[table].(map[string]any)
		if s := (setting{table, r.root[table]}); !ok && s.value != nil {
			r.fault(s, "want a table, a line [%s] with its keys below", table)
		}
		check(values, table)
	}
}

// suggest says which keys and tables there are beside an unknown one, or where
// there is one of its name: a line too far down puts a key into the wrong table.
func suggest(table, name string, known []string) string {
	namesake, siblings := "", []string(nil)
	for _, k := range known {
		t, n := split(k)
		if strings.EqualFold(n, name) && (namesake == "" || t == table) {
			namesake = k
		}
		if t == table {
			siblings = append(siblings, n)
		}
	}
	if namesake != "" {
		return "did you mean " + namesake + "?"
	}
	return "want " + text.Enumerate(siblings, "or")
}

// validate reports what only [ruleset.Spec.Validate] finds: a ladder that does
// not rise, and ports that overlap.
func (r *reader) validate() {
	err := r.config.Spec.Validate()
	if err == nil {
		return
	}
	keys := map[string]string{
		"TrapTCP": "trap.tcp", "TrapUDP": "trap.udp", "Scan.Ignore": "scan.ignore", "BanTime": "ban.bantime",
	}
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		key := ""
		var e *ruleset.SpecError
		if errors.As(err, &e) && keys[e.Field] != "" {
			key, err = keys[e.Field], e.Err
		}
		r.fault(setting{key: key}, "%w", err)
	}
}
