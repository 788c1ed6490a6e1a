package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// position is a line and a column, both counted from 1.
type position struct{ line, column int }

// maxKeys is up to how many keys and tables are located: for each, go-toml goes
// through the whole file.
const maxKeys = 1000

// decode reads a TOML document: its keys and tables, and where they are. The
// fault is one of syntax, or of a value that TOML allows and go-toml cannot
// represent; then root is what is legible all the same.
func decode(file string, data []byte) (root map[string]any, places map[string]position, fault *Error) {
	data = bytes.TrimPrefix(data, []byte("\uFEFF")) // which some editors put first
	err := toml.Unmarshal(data, &root)
	if err == nil {
		return root, locate(data), nil
	}
	fault = &Error{File: file, Err: err}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		fault.Line, fault.Column = at.Position()
		lines := strings.Split(string(data), "\n")
		if name, first := tableAt(lines, fault.Line); first > 0 {
			fault.Err = fmt.Errorf("%w: [%s] stands in line %d: put the keys below this line there", err, name, first)
		} else if unquoted.MatchString(lines[fault.Line-1]) {
			fault.Err = fmt.Errorf("%w; are quotes missing? Durations, addresses, ranges, paths and URLs need them", err)
		}
	}
	return legible(data), nil, fault
}

// legible returns what can be read of a document that is no TOML: each table by
// itself, and what is above them, up to the fault.
func legible(data []byte) map[string]any {
	root := make(map[string]any)
	var part []string
	take := func() {
		for name, value := range readUntilFault(part) {
			if _, twice := root[name]; twice {
				value = nil // which one counts, nobody knows
			}
			root[name] = value
		}
	}
	for _, line := range strings.Split(string(data), "\n") {
		if tableLine.MatchString(line) {
			take()
			part = nil
		}
		part = append(part, line)
	}
	take()
	return root
}

// readUntilFault reads as many of these lines as are TOML. An array that is never
// closed is at fault in its last line: for one of very many, it gives up.
func readUntilFault(lines []string) map[string]any {
	for range 100 {
		var read map[string]any
		err := toml.Unmarshal([]byte(strings.Join(lines, "\n")), &read)
		if err == nil {
			return read
		}
		line := len(lines)
		if at := new(toml.DecodeError); errors.As(err, &at) {
			line, _ = at.Position()
		}
		if lines = lines[:min(max(line, 1), len(lines))-1]; len(lines) == 0 {
			break
		}
	}
	return nil
}

// tableAt returns the name of the table that begins in a line, and in which line
// it has begun before; 0 if in none.
func tableAt(lines []string, line int) (name string, first int) {
	found := tableLine.FindStringSubmatch(lines[line-1])
	if found == nil {
		return "", 0
	}
	for i, text := range lines[:line-1] {
		if m := tableLine.FindStringSubmatch(text); m != nil && m[1] == found[1] {
			return m[1], i + 1
		}
	}
	return "", 0
}

// tableLine matches the line with which a table begins.
var tableLine = regexp.MustCompile(`^\s*\[\s*([A-Za-z0-9_-]+)\s*\]\s*(?:#.*)?$`)

// unquoted matches a line with a duration, an address, a range, a path or a URL
// that is not in quotes.
var unquoted = regexp.MustCompile(`[=\[,]\s*(\d+[a-z:./-]|[a-z\d]*:|/)`)

// locate returns where keys and tables are, by their names in full. go-toml
// reports where a key is only if there is no field for it: so one destination
// has no fields, and the other has the tables, empty. It leaves out the name of
// an inline table, whose keys are therefore not found.
func locate(data []byte) map[string]position {
	places := make(map[string]position)
	if bytes.Count(data, []byte("="))+bytes.Count(data, []byte("[")) > maxKeys {
		return places
	}
	for _, fields := range []any{new(struct{}), new(struct{ Trap, Scan, Ban, Allow, Knock, Geo, Report, Fleet, Watch struct{} })} {
		err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(fields)
		var missing *toml.StrictMissingError
		if !errors.As(err, &missing) {
			continue
		}
		for _, e := range missing.Errors {
			line, column := e.Position()
			for i := range min(len(e.Key()), 2) { // no key of ours has more parts
				if name := fullName(e.Key()[:i+1]...); places[name].line == 0 {
					places[name] = position{line, column}
				}
			}
		}
	}
	return places
}

// bareKey matches what needs no quotes as a key.
var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// fullName joins the parts of a key as TOML has them.
func fullName(parts ...string) string {
	name := make([]string, len(parts))
	for i, part := range parts {
		if name[i] = part; !bareKey.MatchString(part) {
			name[i] = strconv.Quote(part)
		}
	}
	return strings.Join(name, ".")
}
