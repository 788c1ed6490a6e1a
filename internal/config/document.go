package config

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/portmon/portmon/internal/text"
)

// document is a TOML file as go-toml decodes it, and where its keys are.
type document struct {
	file string
	root map[string]any
	keys map[string]position // by the full name of the key
}

// position is a line and a column, both counted from 1.
type position struct{ line, column int }

// maxKeys is up to how many keys and tables are located: for each, go-toml goes
// through the whole file.
const maxKeys = 1000

// decode reads a TOML document. The fault is one of syntax, or of a value that
// TOML allows and go-toml cannot represent.
func decode(file string, data []byte) (*document, *Error) {
	d := &document{file: file, keys: make(map[string]position)}
	data = bytes.TrimPrefix(data, []byte("\uFEFF")) // which some editors put first
	err := toml.Unmarshal(data, &d.root)
	if err == nil {
		if bytes.Count(data, []byte("="))+bytes.Count(data, []byte("[")) <= maxKeys {
			d.locate(data)
		}
		return d, nil
	}
	fault := &Error{File: file, Err: errors.New(text.Printable(err.Error()))} // it may quote a key
	var at *toml.DecodeError
	if errors.As(err, &at) {
		fault.Line, fault.Column = at.Position()
		if unquoted.Match(bytes.Split(data, []byte("\n"))[fault.Line-1]) {
			fault.Hint = "are quotes missing? Durations, addresses, ranges, paths and URLs need them"
		}
	}
	return nil, fault
}

// unquoted matches a line with a duration, an address, a range, a path or a URL
// that is not in quotes.
var unquoted = regexp.MustCompile(`[=\[,]\s*(\d+[a-z:./-]|[a-z\d]*:|/)`)

// locate finds the keys. go-toml reports where a key is only if there is no
// field for it: so one destination has no fields, and the other has the tables,
// empty. It leaves out the name of an inline table, whose keys are therefore not
// found.
func (d *document) locate(data []byte) {
	for _, fields := range []any{new(struct{}), new(struct{ Trap, Scan, Ban, Watch struct{} })} {
		err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(fields)
		var missing *toml.StrictMissingError
		if !errors.As(err, &missing) {
			continue
		}
		for _, e := range missing.Errors {
			line, column := e.Position()
			for i := range min(len(e.Key()), 2) { // no key of ours has more parts
				if name := fullName(e.Key()[:i+1]...); d.keys[name].line == 0 {
					d.keys[name] = position{line, column}
				}
			}
		}
	}
}

// find returns the position of a key or table, or that of the table it is in.
func (d *document) find(key string) (at position) {
	for ; key != "" && at.line == 0; key, _ = split(key) {
		at = d.keys[key]
	}
	return at
}

// split parts "trap.tcp" into its table and its name. Keys of the top level
// have the table "".
func split(key string) (table, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// value returns the value of a key, or nil.
func (d *document) value(key string) any {
	table, name := split(key)
	values := d.root
	if table != "" {
		values, _ = d.root[table].(map[string]any)
	}
	return values[name]
}

// bare matches a key that needs no quotes.
var bare = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// fullName joins the parts of a key. A part that needs quotes gets them, so
// that a dot in it is not taken for one between two parts.
func fullName(parts ...string) string {
	names := slices.Clone(parts)
	for i, part := range parts {
		if !bare.MatchString(part) {
			names[i] = quote(part)
		}
	}
	return strings.Join(names, ".")
}
