package config

import (
	"bytes"
	"fmt"
	"io"

	"github.com/portmon/portmon/ruleset"
)

// Parse reads a configuration. What it does not mention keeps its default.
//
// Name is the name of the file, for messages, and the folder in it is the one
// that relative names of whitelist files start from. Open opens the whitelist
// files; it is called with those names joined.
//
// Every error is of type [Errors].
func Parse(name string, data []byte, open func(name string) (io.ReadCloser, error)) (*Config, error) {
	data = withoutBOM(data)
	r := reader{files: []string{name}, open: open, config: Default()}
	r.config.Source = name

	entries, fault := scan(name, data)
	if fault != nil {
		return nil, Errors{fault}
	}
	r.read(r.bind(entries))

	// Only now, as our own words are better where both have found the same.
	if len(r.faults) == 0 {
		if fault := checkTOML(name, data); fault != nil {
			return nil, Errors{fault}
		}
	}
	// Whatever the two have different opinions on, a Config is valid.
	if len(r.faults) == 0 {
		if err := r.config.Spec.Validate(); err != nil {
			r.fault(Place{File: name}, "%w", err)
		}
	}
	if len(r.faults) > 0 {
		return nil, tidy(r.faults, r.files)
	}
	for _, w := range tidy(r.warnings, r.files) {
		r.config.Warnings = append(r.config.Warnings, Warning{w.Place, w.Err.Error()})
	}
	return r.config, nil
}

// reader turns a raw file into a Config. It goes on after a fault, to find them
// all.
type reader struct {
	files  []string // the configuration file, and the whitelist files in the order in which they are listed
	open   func(name string) (io.ReadCloser, error)
	config *Config

	faults, warnings Errors
}

func (r *reader) fault(at Place, format string, args ...any) {
	r.faults = append(r.faults, &Error{Place: at, Err: fmt.Errorf(format, args...)})
}

func (r *reader) warn(at Place, format string, args ...any) {
	r.warnings = append(r.warnings, &Error{Place: at, Err: fmt.Errorf(format, args...)})
}

func (r *reader) read(file raw) {
	r.readWhitelists(file)
	r.readTrap(file.Trap)
	r.readScan(file.Scan)
	r.checkOffences(file.Trap.TCP)
	r.readBan(file.Ban)
	r.readWatch(file.Watch)
}

func (r *reader) readTrap(trap rawTrap) {
	spec := &r.config.Spec
	if ports, ok := r.ports(trap.TCP); ok {
		spec.TrapTCP = ports
	}
	if ports, ok := r.ports(trap.UDP); ok {
		spec.TrapUDP = ports
	}
	if d, ok := r.duration(trap.Grace, 0, ruleset.MaxGrace); ok {
		spec.Grace = d
	}
	if n, ok := r.integer(trap.MaxRetry, 1, ruleset.MaxRetryLimit); ok {
		spec.MaxRetry = int(n)
	}
	if d, ok := r.duration(trap.FindTime, minDuration, ruleset.MaxFindTime); ok {
		spec.FindTime = d
	}
}

func (r *reader) readScan(scan rawScan) {
	spec := &r.config.Spec.Scan
	if n, ok := r.integer(scan.Ports, 0, ruleset.MaxRetryLimit); ok {
		spec.Ports = int(n)
	}
	if d, ok := r.duration(scan.FindTime, minDuration, ruleset.MaxFindTime); ok {
		spec.FindTime = d
	}
	if ports, ok := r.ports(scan.Ignore); ok {
		spec.Ignore = ports
	}
}

// checkOffences warns if nothing is an offence. The default has TCP traps, so
// it was the file that emptied their list.
func (r *reader) checkOffences(tcp value) {
	spec := &r.config.Spec
	if len(spec.TrapTCP)+len(spec.TrapUDP)+spec.Scan.Ports == 0 && tcp.kind == aList {
		r.warn(tcp.place(), "there are no traps and scan detection is off: nobody is banned except by hand")
	}
}

func (r *reader) readBan(ban rawBan) {
	spec := &r.config.Spec
	if ladder, ok := r.ladder(ban.BanTime); ok {
		spec.BanTime = ladder
	}
	if forget, ok := r.duration(ban.Forget, minDuration, maxDuration); ok {
		spec.Forget = forget
	}
	if n, ok := r.integer(ban.Prefix6, 1, 128); ok {
		spec.Prefix6 = int(n)
		switch {
		case n > 64:
			r.warn(ban.Prefix6.place(), "a host usually has a /64 to itself: it evades the ban with another address from it")
		case n < 48:
			r.warn(ban.Prefix6.place(), "a customer has at most a /48: one offence bans many customers")
		}
	}
	if single, ok := r.singles(ban.Single6); ok {
		spec.Single6 = single
	}
	r.readSubnets(ban)
	if n, ok := r.integer(ban.Size, 1, ruleset.MaxSize); ok {
		spec.Size = uint32(n)
	}
}

// readSubnets reads what bans a whole network, and must come after prefix6.
func (r *reader) readSubnets(ban rawBan) {
	spec := &r.config.Spec
	for _, key := range []struct {
		value   value
		field   *int
		network string
	}{{ban.Subnet4, &spec.Subnet4, "/24"}, {ban.Subnet6, &spec.Subnet6, "/48"}} {
		n, ok := r.integer(key.value, 0, ruleset.MaxRetryLimit)
		if !ok {
			continue
		}
		*key.field = int(n)
		if n == 1 {
			r.warn(key.value.place(), "one offence bans the whole %s", key.network)
		}
	}
	if ban.Subnet6.kind == anInteger && spec.Subnet6 > 0 && spec.Prefix6 <= 48 {
		r.warn(ban.Subnet6.place(), "not used, as prefix6 is %d: every source is a /48 or more already", spec.Prefix6)
	}
}

// withoutBOM drops the byte order mark that some editors put first.
func withoutBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\uFEFF")) }
