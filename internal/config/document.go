package config

import (
	"bytes"
	"cmp"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// document is a TOML file as go-toml decodes it, and where its keys are.
type document struct {
	file string
	root map[string]any
	keys map[string]position // by the full name of the key
}

// position is a line and a column, both counted from 1.
type position struct{ line, column int }

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.line, q.line), cmp.Compare(p.column, q.column))
}

// maxKeys bounds the keys and tables of a document, or what looks like one: the
// time that go-toml needs to locate one grows with the size of the file.
const maxKeys = 1000

// decode reads a TOML document. The fault is one of syntax, or of a value that
// TOML allows and go-toml cannot represent.
func decode(file string, data []byte) (*document, *Error) {
	d := &document{file: file, keys: make(map[string]position)}
	keys := bytes.Count(data, []byte("=")) + bytes.Count(data, []byte("["))
	if keys <= maxKeys {
		d.locate(data)
	}
	switch err := toml.Unmarshal(data, &d.root); {
	case err != nil:
		fault := &Error{File: file, Line: 1, Err: err}
		if at, ok := errors.AsType[*toml.DecodeError](err); ok {
			fault.Line, fault.Column = at.Position()
			fault.Key = d.keyBefore(position{fault.Line, fault.Column})
			fault.Hint = quotesHint(bytes.Split(data, []byte("\n"))[fault.Line-1], fault.Column-1)
		}
		return nil, fault
	case keys > maxKeys:
		return nil, &Error{File: file, Line: 1, Err: errors.New("too many keys for a configuration of portmon")}
	}
	return d, nil
}

// locate finds the keys. go-toml reports where a key is only if there is no
// field for it: so one destination has no fields, and the other has the tables,
// empty. It leaves out the name of an inline table, whose keys are therefore not
// found.
func (d *document) locate(data []byte) {
	for _, fields := range []any{new(struct{}), new(struct{ Trap, Scan, Ban, Watch struct{} })} {
		err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(fields)
		missing, ok := errors.AsType[*toml.StrictMissingError](err)
		if !ok {
			continue
		}
		for _, e := range missing.Errors {
			line, column := e.Position()
			for i := range e.Key() {
				if name := fullName(e.Key()[:i+1]...); d.keys[name].line == 0 {
					d.keys[name] = position{line, column}
				}
			}
		}
	}
}

// keyBefore returns the last key before a position, if there is one.
func (d *document) keyBefore(at position) (key string) {
	var last position
	for k, p := range d.keys {
		if p.compare(at) <= 0 && (p.compare(last) > 0 || p == last && len(k) > len(key)) {
			key, last = k, p
		}
	}
	return key
}

// find returns the position of a key or table, or that of the table it is in.
func (d *document) find(key string) position {
	for key != "" {
		if at, ok := d.keys[key]; ok {
			return at
		}
		key, _ = split(key)
	}
	return position{1, 1}
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
