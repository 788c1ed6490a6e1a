package config

import (
	"reflect"
	"slices"
	"strings"
)

// raw is the file as the user wrote it: values not yet looked at, each with its
// place. Its tags are the schema.
type raw struct {
	Whitelist      value `toml:"whitelist"`
	WhitelistFiles value `toml:"whitelist_files"`

	Trap  rawTrap  `toml:"trap"`
	Scan  rawScan  `toml:"scan"`
	Ban   rawBan   `toml:"ban"`
	Watch rawWatch `toml:"watch"`
}

type rawTrap struct {
	TCP      value `toml:"tcp"`
	UDP      value `toml:"udp"`
	Grace    value `toml:"grace"`
	MaxRetry value `toml:"maxretry"`
	FindTime value `toml:"findtime"`
}

type rawScan struct {
	Ports    value `toml:"ports"`
	FindTime value `toml:"findtime"`
	Ignore   value `toml:"ignore"`
}

type rawBan struct {
	BanTime value `toml:"bantime"`
	Forget  value `toml:"forget"`
	Prefix6 value `toml:"prefix6"`
	Single6 value `toml:"single6"`
	Subnet4 value `toml:"subnet4"`
	Subnet6 value `toml:"subnet6"`
	Size    value `toml:"size"`
}

type rawWatch struct {
	State         value `toml:"state"`
	Metrics       value `toml:"metrics"`
	Ntfy          value `toml:"ntfy"`
	NtfyTokenFile value `toml:"ntfy_token_file"`
	Command       value `toml:"command"`
}

// slots are the places of a raw that a file can fill.
type slots struct {
	keys   []string // in the order of the schema, in full: "trap.tcp"
	tables []string // "trap"
	values map[string]*value
}

// slots returns the places of r.
func (r *raw) slots() slots {
	s := slots{values: make(map[string]*value)}
	s.add("", reflect.ValueOf(r).Elem())
	return s
}

func (s *slots) add(table string, v reflect.Value) {
	for field, v := range v.Fields() {
		key := strings.TrimPrefix(table+"."+field.Tag.Get("toml"), ".")
		if slot, ok := v.Addr().Interface().(*value); ok {
			s.keys = append(s.keys, key)
			s.values[key] = slot
		} else {
			s.tables = append(s.tables, key)
			s.add(key, v)
		}
	}
}

// bind puts the entries of a document into the raw. Keys that do not exist, or
// exist twice, are faults.
func (r *reader) bind(entries []entry) raw {
	var file raw
	slots := file.slots()
	var unknown []string // tables: one fault for each of them is enough, their keys are passed over
	for _, e := range entries {
		key := e.key.Key
		slot := slots.values[key]
		switch table := e.value.kind == aTable || e.value.kind == aListOfTables; {
		case below(key, unknown):
		case slot != nil && slot.kind == absent:
			*slot = e.value
			if table {
				unknown = append(unknown, key)
			}
		case slot != nil:
			r.fault(e.key, "is set twice, first on line %d", slot.at.Line)
		case slices.Contains(slots.tables, key):
			if e.value.kind != aTable {
				r.fault(e.value.place(), "want a table, a line [%s] with its keys below, not %s", key, e.value.kind)
			}
		case table:
			unknown = append(unknown, key)
			r.fault(e.key, "unknown table: %s", suggestTable(key, slots.tables))
		default:
			r.fault(e.key, "unknown key: %s", suggestKey(key, slots.keys))
		}
	}
	return file
}

// below reports whether the key is one of the tables, or in one.
func below(key string, tables []string) bool {
	for _, table := range tables {
		if key == table || strings.HasPrefix(key, table+".") {
			return true
		}
	}
	return false
}
