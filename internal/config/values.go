package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/portmon/portmon/internal/addrlist"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// What most keys accept: from the shortest duration that can be written to the
// longest that a set can hold.
const (
	minDuration = time.Second
	maxDuration = ruleset.MaxBanTime
)

// setting is a value of the file, nil if it is not there; or an element of a
// list, with the key of the list.
type setting struct {
	key   string
	value any
}

// The functions below read a value. Without a value, or with one that is wrong,
// which they report, the default stays in place.

// typed returns a value, and whether it has the type.
func typed[T any](r *reader, s setting, want string) (T, bool) {
	v, ok := s.value.(T)
	if !ok && s.value != nil {
		r.fault(s, "want %s", want)
	}
	return v, ok
}

// word returns a value that may be written as a string or as an integer, which
// lacks the unit; or "", which is neither a duration nor a port.
func word(v any, unit string) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10) + unit
	}
	return ""
}

// list returns the elements of a list.
func (r *reader) list(s setting, what string) (items []setting, ok bool) {
	values, ok := typed[[]any](r, s, "a list of "+what+" in brackets")
	for _, v := range values {
		items = append(items, setting{s.key, v})
	}
	return items, ok
}

// text sets a string, and reports whether it did.
func (r *reader) text(s setting, to *string, want string) bool {
	v, ok := typed[string](r, s, want)
	if ok {
		*to = v
	}
	return ok
}

// integer sets an integer from low to high, and reports whether it did.
func (r *reader) integer(s setting, n *int, low, high int64) bool {
	v, ok := s.value.(int64)
	ok = ok && v >= low && v <= high
	if ok {
		*n = int(v)
	} else if s.value != nil {
		r.fault(s, "want an integer from %d to %d", low, high)
	}
	return ok
}

// duration sets a duration from low to high, and reports whether it did.
func (r *reader) duration(s setting, d *time.Duration, low, high time.Duration) bool {
	if s.value == nil {
		return false
	}
	v, err := text.ParseDuration(word(s.value, "s"), low, high)
	if err != nil {
		r.fault(s, "%w", err)
		return false
	}
	*d = v
	return true
}

// ladder sets the durations of the bans: a list, or a single one. Whether they
// rise is for [ruleset.Spec.Validate].
func (r *reader) ladder(s setting, ladder *[]time.Duration) {
	items := []setting{s}
	if _, ok := s.value.([]any); ok {
		items, _ = r.list(s, "durations")
	}
	var read []time.Duration
	for _, item := range items {
		var d time.Duration
		if r.duration(item, &d, minDuration, maxDuration) {
			read = append(read, d)
		}
	}
	if len(read) > 0 || len(items) == 0 {
		*ladder = read
	}
}

var errPorts = errors.New(`want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"`)

// ports sets a list of ports, in the order of the file. Overlaps are for
// [ruleset.Spec.Validate].
func (r *reader) ports(s setting, ports *[]ruleset.Ports) {
	items, ok := r.list(s, "ports")
	if !ok {
		return
	}
	*ports = nil
	for _, item := range items {
		if p, err := parsePorts(word(item.value, "")); err != nil {
			r.fault(item, "%w", err)
		} else {
			*ports = append(*ports, p)
		}
	}
}

// parsePorts reads "22" or "5900-5910". The error says what is wanted and does
// not repeat s.
func parsePorts(s string) (ruleset.Ports, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	from, ok1 := parsePort(first)
	to, ok2 := parsePort(last)
	switch {
	case !ok1 || !ok2:
		return ruleset.Ports{}, errPorts
	case to < from:
		return ruleset.Ports{}, fmt.Errorf(`the range is reversed: want "%d-%d"`, to, from)
	}
	return ruleset.Ports{From: from, To: to}, nil
}

// parsePort reads the number of a port, from 1 to 65535, without sign or
// leading zeros.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && s[0] != '0'
}

var errPrefix6 = errors.New("want an IPv6 prefix such as 2001:db8::/32")

// singles sets a list of IPv6 prefixes.
func (r *reader) singles(s setting, prefixes *[]netip.Prefix) {
	items, ok := r.list(s, "IPv6 prefixes")
	if !ok {
		return
	}
	*prefixes = nil
	for _, item := range items {
		v, ok := typed[string](r, item, "an IPv6 prefix in quotes")
		if !ok {
			continue
		}
		all, err := addrlist.Parse(v)
		switch {
		case errors.Is(err, addrlist.ErrSyntax) || strings.ContainsAny(v, "-%"):
			err = errPrefix6
		case err == nil && all[0].Addr().Is4():
			err = fmt.Errorf("IPv4 addresses are banned one by one anyway: %w", errPrefix6)
		}
		if err != nil {
			r.fault(item, "%w", err)
			continue
		}
		if all[0].Bits() == 0 {
			r.warn(item, "this is all of IPv6: every source evades its ban with another address")
		} else if note := doubt(v, all); note != "" {
			r.warn(item, "%s", note)
		}
		*prefixes = append(*prefixes, all...)
	}
}

// source writes a value as TOML does, on one line, shortened if it is long.
func source(v any) string {
	switch v := v.(type) {
	case nil, map[string]any: // the keys of a table have their own lines
		return ""
	case []any:
		if len(v) > 0 && source(v[0]) == "" {
			return ""
		}
	case string:
		return quote(v)
	}
	data, _ := toml.Marshal(map[string]any{"v": v}) // cannot fail: it has been decoded
	s, _ := strings.CutPrefix(strings.TrimSpace(string(data)), "v = ")
	return text.Shorten(text.Printable(s), maxQuoted)
}
