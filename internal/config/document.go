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

// maxKeys is up to how many keys and tables are located, parts of dotted keys
// included. The time that go-toml takes for each grows with the size of the
// file.
const maxKeys = 1000

// maxParts is how many parts of a key are looked at: no key of ours has more
// than two.
const maxParts = 3

// decode reads a TOML document. The fault is one of syntax, or of a value that
// TOML allows and go-toml cannot represent.
func decode(file string, data []byte) (*document, *Error) {
	d := &document{file: file, keys: make(map[string]position)}
	data = bytes.TrimPrefix(data, []byte("\uFEFF")) // which some editors put first
	if countKeys(data) <= maxKeys {
		d.locate(data)
	}
	err := toml.Unmarshal(data, &d.root)
	if err == nil {
		return d, nil
	}
	fault := &Error{File: file, Err: errors.New(text.Printable(err.Error()))} // it may quote a key
	var at *toml.DecodeError
	if errors.As(err, &at) {
		fault.Line, fault.Column = at.Position()
		fault.Key = d.keyBefore(fault.Line)
		fault.Hint = quotesHint(bytes.Split(data, []byte("\n"))[fault.Line-1], fault.Column-1)
	}
	return nil, fault
}

// countKeys returns at least how many keys and tables a document has, with the
// parts of dotted ones.
func countKeys(data []byte) int {
	n := bytes.Count(data, []byte("=")) + bytes.Count(data, []byte("["))
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if key, _, ok := bytes.Cut(line, []byte("=")); (ok || bytes.HasPrefix(line, []byte("["))) && line[0] != '#' {
			n += bytes.Count(key, []byte("."))
		}
	}
	return n
}

// locate finds the keys. go-toml reports where a key is only if there is no
// field for it: so one destination has no fields, and the other has the tables,
// empty. It leaves out the name of an inline table, whose keys are therefore not
// found.
func (d *document) locate(data []byte) {
	for _, fields := range []any{new(struct{}), new(struct{ Trap, Scan, Ban, Watch struct{} })} {
		err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(fields)
		var missing *toml.StrictMissingError
		ok := errors.As(err, &missing)
		if !ok {
			continue
		}
		for _, e := range missing.Errors {
			line, column := e.Position()
			for i := range min(len(e.Key()), maxParts) {
				if name := fullName(e.Key()[:i+1]...); d.keys[name].line == 0 {
					d.keys[name] = position{line, column}
				}
			}
		}
	}
}

// keyBefore returns the last key that is not below a line, if there is one.
func (d *document) keyBefore(line int) (key string) {
	last := 0
	for k, at := range d.keys {
		if at.line <= line && (at.line > last || at.line == last && len(k) > len(key)) {
			key, last = k, at.line
		}
	}
	return key
}

// find returns the position of a key or table, or that of the table it is in.
func (d *document) find(key string) (at position) {
	for ; key != "" && at.line == 0; key, _ = split(key) {
		at = d.keys[key]
	}
	return at
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
