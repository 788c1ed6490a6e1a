package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/portmon/portmon/ruleset"
)

// Parse reads a configuration. What it does not mention keeps its default.
//
// Name is the name of the file, for messages; relative names of whitelist files
// start from its folder. Open opens the whitelist files, each of them twice.
//
// Every error is of type [Errors].
func Parse(name string, data []byte, open func(name string) (io.ReadCloser, error)) (*Config, error) {
	d, fault := decode(name, data)
	if fault != nil {
		return nil, Errors{fault}
	}
	r := reader{document: d, open: open, config: Default()}
	r.config.Source = name
	r.read()
	if len(r.faults)+len(r.fileFaults) > 0 {
		return nil, append(inOrder(r.faults), r.fileFaults...)
	}
	r.config.Warnings = append(inOrder(r.warnings), r.fileWarnings...)
	return r.config, nil
}

// inOrder sorts what was found in the configuration file, and limits it.
func inOrder(found Errors) Errors {
	slices.SortStableFunc(found, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return limit(found, maxReports)
}

// reader turns a document into a Config. It goes on after a fault, to find them
// all.
type reader struct {
	*document
	open   func(name string) (io.ReadCloser, error)
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

func (r *reader) warn(s setting, format string, args ...any) {
	r.warnings = append(r.warnings, r.report(s, fmt.Errorf(format, args...)))
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
}

// readOffences reads [trap] and [scan].
func (r *reader) readOffences() {
	spec := &r.config.Spec
	tcp := r.get("trap.tcp")
	r.ports(tcp, &spec.TrapTCP)
	r.ports(r.get("trap.udp"), &spec.TrapUDP)
	r.duration(r.get("trap.grace"), &spec.Grace, 0, ruleset.MaxGrace)
	r.integer(r.get("trap.maxretry"), &spec.MaxRetry, 1, ruleset.MaxRetryLimit)
	r.duration(r.get("trap.findtime"), &spec.FindTime, minDuration, ruleset.MaxFindTime)

	r.integer(r.get("scan.ports"), &spec.Scan.Ports, 0, ruleset.MaxRetryLimit)
	r.duration(r.get("scan.findtime"), &spec.Scan.FindTime, minDuration, ruleset.MaxFindTime)
	r.ports(r.get("scan.ignore"), &spec.Scan.Ignore)

	// The default has TCP traps, so it was the file that emptied their list.
	if len(spec.TrapTCP)+len(spec.TrapUDP)+spec.Scan.Ports == 0 && tcp.value != nil {
		r.warn(tcp, "there are no traps and scan detection is off: nothing is banned except by hand")
	}
}

func (r *reader) readBan() {
	spec := &r.config.Spec
	r.ladder(r.get("ban.bantime"), &spec.BanTime)
	r.duration(r.get("ban.forget"), &spec.Forget, minDuration, maxDuration)
	if s := r.get("ban.prefix6"); r.integer(s, &spec.Prefix6, 1, 128) {
		switch {
		case spec.Prefix6 > 64:
			r.warn(s, "a host usually has a /64 to itself: it evades the ban with another address from it")
		case spec.Prefix6 < 48:
			r.warn(s, "a customer has at most a /48: one offence bans many customers")
		}
	}
	list(r, r.get("ban.single6"), &spec.Single6, "IPv6 prefixes", r.single6)
	if s := r.get("ban.subnet4"); r.integer(s, &spec.Subnet4, 0, ruleset.MaxRetryLimit) && spec.Subnet4 == 1 {
		r.warn(s, "one offence bans the whole /24")
	}
	if s := r.get("ban.subnet6"); r.integer(s, &spec.Subnet6, 0, ruleset.MaxRetryLimit) && spec.Subnet6 > 0 {
		switch {
		case spec.Prefix6 <= 48:
			r.warn(s, "not used, as prefix6 is %d: every source is a /48 or more already", spec.Prefix6)
		case spec.Subnet6 == 1:
			r.warn(s, "one offence bans the whole /48")
		}
	}
	size := int(spec.Size)
	r.integer(r.get("ban.size"), &size, 1, ruleset.MaxSize)
	spec.Size = uint32(size)
}

// checkKeys reports the keys and tables that were not asked for.
func (r *reader) checkKeys() {
	names := slices.Clone(r.known) // and the tables
	for _, key := range r.known {
		if table, _ := split(key); table != "" && !slices.Contains(names, table) {
			names = append(names, table)
		}
	}
	check := func(values map[string]any, table ...string) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			s := setting{key: fullName(append(table, name)...)}
			what := "key"
			if _, ok := values[name].(map[string]any); ok {
				what = "table"
			}
			if len(r.faults) > maxKeys {
				return // it is another file altogether
			}
			if !slices.Contains(names, s.key) {
				r.fault(s, "unknown %s: %s", what, suggest(s.key, names))
			}
		}
	}
	check(r.root)
	for _, table := range names[len(r.known):] {
		values, ok := r.root[table].(map[string]any)
		if s := (setting{table, r.root[table]}); !ok && s.value != nil {
			r.fault(s, "want a table, a line [%s] with its keys below", table)
		}
		check(values, table)
	}
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
