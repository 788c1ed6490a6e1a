package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// parse reads a configuration: as much as it can of a file with faults. What the
// file does not mention keeps its default.
//
// Name is the name of the file, for messages; relative names of whitelist files
// start from its folder. Open opens a whitelist file, as [openFile] does.
// Read reads what is wanted of it.
func parse(
	name string, data []byte, open func(name string) (fs.File, error), read func(*reader, map[string]any),
) (*Config, Errors) {
	root, places, fault := decode(name, data)
	r := reader{file: name, places: places, open: open, config: Default()}
	r.config.Source = name
	if fault != nil {
		r.config.Watch.State = "" // unless the file says it, it is not known
		read(&r, root)
		return r.config, Errors{fault}
	}
	read(&r, root)
	r.config.Warnings = r.warnings.finish(name)
	return r.config, r.faults.finish(name)
}

// reader turns a document into a Config. It goes on after a fault, to find them
// all.
type reader struct {
	file   string
	places map[string]position // of keys and tables
	open   func(name string) (fs.File, error)
	config *Config
	tables []*table // that were asked for

	faults, warnings Errors
}

// table is a table of the file, or what is above all tables.
type table struct {
	*reader
	prefix string // of the full names of its keys
	values map[string]any
	known  []string // the keys that were asked for
}

// get returns the value of a key, and makes it one that the table may have.
func (t *table) get(name string) setting {
	t.known = append(t.known, name)
	return setting{t.reader, t.prefix + name, t.values[name]}
}

// table returns a table below this one, empty if the file does not have it.
func (t *table) table(name string) *table {
	s := t.get(name)
	values, ok := s.value.(map[string]any)
	if !ok && s.value != nil {
		s.report(&s.faults, fmt.Errorf("want a table, a line [%s] with its keys below", name))
	}
	t.tables = append(t.tables, &table{reader: t.reader, prefix: name + ".", values: values})
	return t.tables[len(t.tables)-1]
}

// read reads every key that a configuration may have.
func (r *reader) read(root map[string]any) {
	spec, w := &r.config.Spec, &r.config.Watch
	top := &table{reader: r, values: root}
	r.tables = []*table{top}

	one(top.get("mode"), &spec.Observe, mode)
	addresses(top.get("whitelist"), &spec.Whitelist)
	var files []string
	fileList := top.get("whitelist_files")
	many(fileList, &files, validString(func(s string) bool { return s != "" }, "the name of a file"))
	many(top.get("whitelist_interfaces"), &spec.Interfaces, validString(func(string) bool { return true },
		`the name of an interface, such as "wg0"`))
	hosts := top.get("whitelist_names")
	many(hosts, &r.config.Names, hostName)
	slices.Sort(r.config.Names)
	r.config.Names = slices.Compact(r.config.Names)
	r.atMost(names.MaxNames, "names", len(r.config.Names), hosts.key)

	trap := top.table("trap")
	many(trap.get("tcp"), &spec.TrapTCP, ports)
	many(trap.get("udp"), &spec.TrapUDP, ports)
	one(trap.get("grace"), &spec.Grace, duration(0, ruleset.MaxGrace))
	one(trap.get("maxretry"), &spec.MaxRetry, integer(1, ruleset.MaxRetryLimit))
	one(trap.get("findtime"), &spec.FindTime, duration(minDuration, ruleset.MaxFindTime))

	scan := top.table("scan")
	one(scan.get("ports"), &spec.Scan.Ports, integer(0, ruleset.MaxRetryLimit))
	one(scan.get("findtime"), &spec.Scan.FindTime, duration(minDuration, ruleset.MaxFindTime))
	many(scan.get("ignore"), &spec.Scan.Ignore, ports)

	ban := top.table("ban")
	many(ban.get("bantime").inList(), &spec.BanTime, duration(minDuration, maxDuration))
	one(ban.get("forget"), &spec.Forget, duration(minDuration, maxDuration))
	one(ban.get("prefix6"), &spec.Prefix6, integer(1, 128))
	addresses(ban.get("single6"), &spec.Single6)
	one(ban.get("subnet4"), &spec.Subnet4, integer(0, ruleset.MaxRetryLimit))
	one(ban.get("subnet6"), &spec.Subnet6, integer(0, ruleset.MaxRetryLimit))
	one(ban.get("size"), &spec.Size, integer[uint32](1, ruleset.MaxSize))

	readLogin(top)

	knock := top.table("knock")
	many(knock.get("tcp"), &spec.Knock.TCP, port)
	one(knock.get("within"), &spec.Knock.Within, duration(minDuration, ruleset.MaxKnockWithin))
	one(knock.get("allow"), &spec.Knock.Allow, duration(minDuration, maxDuration))

	readDatabases(top)

	path := validString(func(s string) bool { return s == "" || isFilePath(s) }, `the absolute path of a file, or "" for none`)
	one(top.table("report").get("abuseipdb_key_file"), &r.config.AbuseIPDBKeyFile, path)

	one(top.table("fleet").get("max_bantime"), &r.config.FleetMaxBan, duration(0, maxFleetBan))

	watch := top.table("watch")
	readState(watch)
	one(watch.get("metrics"), &w.Metrics, validString(isMetrics,
		`an address and a port, such as "127.0.0.1:9713", or "" for none`))
	one(watch.get("ntfy"), &w.Ntfy, validString(isTopic,
		`an http or https URL with a topic and without a password, such as "https://ntfy.sh/my-topic", or "" for none`))
	one(watch.get("ntfy_token_file"), &w.NtfyTokenFile, path)
	command := watch.get("command")
	many(command, &w.Command, validString(func(s string) bool { return !strings.Contains(s, "\x00") }, "a string without NUL"))
	if len(w.Command) > 0 && !isFilePath(w.Command[0]) {
		command.report(&r.faults, errors.New("want the absolute path of a program first: there is no shell and no PATH"))
		w.Command = nil // for Salvage
	}

	for _, t := range r.tables {
		t.checkKeys()
	}
	r.validate()
	r.doubt()
	for _, file := range files {
		if err := r.readWhitelistFile(file); err != nil {
			setting{r, fileList.key, file}.report(&r.faults, err)
		}
	}
}

// glance reads what [Glance] returns.
func (r *reader) glance(root map[string]any) {
	top := &table{reader: r, values: root}
	readLogin(top)
	readDatabases(top)
	r.faults = nil
	readState(top.table("watch"))
}

func readLogin(top *table) {
	one(top.table("allow").get("login"), &top.config.Login, duration(0, maxDuration))
}

func readDatabases(top *table) {
	list := top.table("geo").get("databases")
	many(list, &top.config.Geo, validString(isFilePath,
		`the absolute path of a file, such as "/usr/share/GeoIP/GeoLite2-ASN.mmdb"`))
	top.atMost(maxDatabases, "databases", len(top.config.Geo), list.key)
	for i, path := range top.config.Geo {
		if slices.Contains(top.config.Geo[:i], path) {
			list.value = path
			list.report(&list.faults, errors.New("stands twice"))
			break
		}
	}
}

func readState(watch *table) {
	if !one(watch.get("state"), &watch.config.Watch.State, validString(isFilePath,
		`the absolute path of a file, such as "/var/lib/portmon/state.jsonl"`)) {
		watch.config.Watch.State = "" // for Glance: the default is not where the bans are
	}
}

// checkKeys reports the keys and tables that were not asked for.
func (t *table) checkKeys() {
	for _, name := range slices.Sorted(maps.Keys(t.values)) {
		if !slices.Contains(t.known, name) {
			err := fmt.Errorf("unknown key: want %s", text.Enumerate(t.known, "or"))
			setting{t.reader, t.prefix + fullName(name), nil}.report(&t.faults, err)
		}
	}
}

// atMost reports a list that is too long.
func (r *reader) atMost(limit int, what string, n int, key string) {
	if n > limit {
		setting{r, key, nil}.report(&r.faults, fmt.Errorf("%d %s: want at most %d", n, what, limit))
	}
}

// validate reports what only [ruleset.Spec.Validate] finds: a ladder that does
// not rise, ports that overlap, IPv4 where IPv6 is wanted, names that no
// interface can have, and knocks that a scan would make.
func (r *reader) validate() {
	err := r.config.Spec.Validate()
	if err == nil {
		return
	}
	keys := map[string]string{
		"TrapTCP": "trap.tcp", "TrapUDP": "trap.udp", "Scan.Ignore": "scan.ignore",
		"BanTime": "ban.bantime", "Single6": "ban.single6", "Interfaces": "whitelist_interfaces", "Knock.TCP": "knock.tcp",
	}
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		var e *ruleset.SpecError
		errors.As(err, &e)
		setting{r, cmp.Or(keys[e.Field], e.Field), nil}.report(&r.faults, e.Err)
	}
}

// doubt warns of what the file says and its author may not have meant.
func (r *reader) doubt() {
	spec, w := &r.config.Spec, &r.config.Watch
	warn := func(key string, doubtful bool, what string) {
		if doubtful {
			setting{r, key, nil}.report(&r.warnings, errors.New(what))
		}
	}
	warn("trap.tcp", len(spec.TrapTCP)+len(spec.TrapUDP)+spec.Scan.Ports == 0,
		"there are no traps and scan detection is off: nothing is banned except by hand")
	warn("knock.tcp", slices.ContainsFunc(spec.Knock.TCP, func(port uint16) bool {
		return slices.ContainsFunc(spec.TrapTCP, func(trap ruleset.Ports) bool { return trap.Contains(port) })
	}), "a port of the sequence is among trap.tcp: packets to it are knocks, and no trap")
	warn("ban.prefix6", spec.Prefix6 > 64,
		"a host usually has a /64 to itself: it evades the ban with another address from it")
	warn("ban.prefix6", spec.Prefix6 < 48, "a customer has at most a /48: one offence bans many customers")
	warn("ban.subnet4", spec.Subnet4 == 1, "one offence bans the whole /24")
	warn("ban.subnet6", spec.Subnet6 == 1 && spec.Prefix6 > 48, "one offence bans the whole /48")
	metrics, _ := metricsAddr(w.Metrics)
	warn("watch.metrics", w.Metrics != "" && !metrics.Addr().IsLoopback(),
		"not a loopback address: anybody who can reach it can read the metrics")
	warn("watch.ntfy_token_file", w.NtfyTokenFile != "" && w.Ntfy == "", "not used, as ntfy is off")
	warn("watch.ntfy", w.NtfyTokenFile != "" && strings.HasPrefix(strings.ToLower(w.Ntfy), "http:"),
		"the access token is sent unencrypted: want https")
}
