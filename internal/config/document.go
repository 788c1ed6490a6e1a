package config

import (
	"errors"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// entry is one "key = value" or "[table]" of a document, in its order. An
// inline table is an entry for the table and one for each of its keys, so that
// all ways to write the same key look alike.
type entry struct {
	key   Place
	value value
}

// scanner walks go-toml's syntax tree. The library's decoder stops at the first
// value of a wrong type and does not say where the others stand; its tree has a
// position for almost everything.
type scanner struct {
	parser  unstable.Parser
	file    string
	lines   []int // offset of each line's first byte
	entries []entry
}

// scan splits a TOML document into its entries. The only fault is one of
// syntax. Strings of the result do not share memory with data.
func scan(file string, data []byte) ([]entry, *Error) {
	// Without spare capacity go-toml cannot take an empty slice of another
	// origin for a place outside the document.
	data = slices.Clip(data)
	s := scanner{file: file, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	s.parser.Reset(data)
	var table []string
	for s.parser.NextExpression() {
		switch node := s.parser.Expression(); node.Kind {
		case unstable.Table:
			table = s.header(node, aTable)
		case unstable.ArrayTable:
			table = s.header(node, aListOfTables)
		case unstable.KeyValue:
			s.keyValue(table, node)
		}
	}
	if err := s.parser.Error(); err != nil {
		fault := &Error{Place: Place{File: file}, Err: err}
		if perr, ok := errors.AsType[*unstable.ParserError](err); ok {
			offset := int(s.parser.Range(perr.Highlight).Offset)
			fault.Place = s.place(offset)
			// The parser's own error points into the document, and must not
			// outlive it.
			fault.Err = errors.New("toml: " + perr.Message)
			fault.hint = quotesHint(data, offset)
		}
		return nil, fault
	}
	return s.entries, nil
}

// header adds the entry of a [table] line and returns the table's path.
func (s *scanner) header(node *unstable.Node, k kind) []string {
	path, at := s.key(nil, node)
	s.entries = append(s.entries, entry{key: at, value: value{at: at, kind: k}})
	return path
}

func (s *scanner) keyValue(table []string, node *unstable.Node) {
	path, at := s.key(table, node)
	n := node.Value()
	s.entries = append(s.entries, entry{key: at, value: s.value(n, at)})
	if n.Kind != unstable.InlineTable {
		return
	}
	for it := n.Children(); it.Next(); {
		s.keyValue(path, it.Node())
	}
}

// key returns the path of a key below a table, and the place of the key with
// that path as its name.
func (s *scanner) key(table []string, node *unstable.Node) (path []string, at Place) {
	path = slices.Clone(table)
	for it := node.Key(); it.Next(); {
		part := string(it.Node().Data)
		if len(path) == len(table) {
			at = s.place(int(it.Node().Raw.Offset))
		}
		// Quoted like this, a key that has a dot in its name is not taken for a
		// path.
		if strings.ContainsFunc(part, notBare) || part == "" {
			part = quote(part)
		}
		path = append(path, part)
	}
	at.Key = strings.Join(path, ".")
	return path, at
}

// notBare reports whether c cannot stand in a key without quotes.
func notBare(c rune) bool {
	letter := 'a' <= c|0x20 && c|0x20 <= 'z'
	return !letter && (c < '0' || '9' < c) && c != '_' && c != '-'
}

// value copies a value out of the tree, which the parser reuses for the next
// expression. A list has no position in the tree: it gets that of its key, or
// within another list, that of its first element.
func (s *scanner) value(node *unstable.Node, parent Place) value {
	v := value{at: parent, kind: kindOf(node.Kind)}
	if v.kind == aList {
		for it := node.Children(); it.Next(); {
			item := s.value(it.Node(), parent)
			if item.kind == aList && len(item.items) > 0 {
				item.at = item.items[0].at
			}
			v.items = append(v.items, item)
		}
		return v
	}
	v.at = s.place(int(node.Raw.Offset))
	v.at.Key = parent.Key
	if v.kind != aTable {
		v.text = string(node.Data)
	}
	return v
}

// place returns the line and column of an offset.
func (s *scanner) place(offset int) Place {
	line, found := slices.BinarySearch(s.lines, offset)
	if !found {
		line-- // the line begins before the offset
	}
	return Place{File: s.file, Line: line + 1, Column: offset - s.lines[line] + 1}
}

func kindOf(k unstable.Kind) kind {
	switch k {
	case unstable.String:
		return aString
	case unstable.Integer:
		return anInteger
	case unstable.Float:
		return aFloat
	case unstable.Bool:
		return aBoolean
	case unstable.Array:
		return aList
	case unstable.InlineTable:
		return aTable
	default:
		return aDate
	}
}

// checkTOML returns the first fault which only go-toml's decoder finds, such as
// a table that is defined twice.
func checkTOML(file string, data []byte) *Error {
	var document map[string]any
	err := toml.Unmarshal(data, &document)
	if err == nil {
		return nil
	}
	at := Place{File: file}
	if derr, ok := errors.AsType[*toml.DecodeError](err); ok {
		at.Line, at.Column = derr.Position()
	}
	return &Error{Place: at, Err: err}
}
