package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
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

// list sets the elements of a list, as read returns them. What names them.
func list[T any](r *reader, s setting, to *[]T, what string, read func(item setting) (T, error)) {
	values, ok := s.value.([]any)
	if !ok && s.value != nil {
		r.fault(s, "want a list of %s in brackets", what)
	}
	var all []T
	for _, v := range values {
		item := setting{s.key, v}
		if one, err := read(item); err != nil {
			r.fault(item, "%w", err)
		} else {
			all = append(all, one)
		}
	}
	if ok && (len(all) > 0 || len(values) == 0) {
		*to = all
	}
}

// text sets a string that is valid, and empties it if it is not.
func (r *reader) text(key string, to *string, valid func(string) bool, want string) {
	s := r.get(key)
	if s.value == nil {
		return
	}
	*to, _ = s.value.(string)
	if _, ok := s.value.(string); !ok || !valid(*to) {
		r.fault(s, "want %s", want)
		*to = ""
	}
}

// integer sets an integer from low to high.
func (r *reader) integer(key string, n *int, low, high int64) {
	s := r.get(key)
	if v, ok := s.value.(int64); ok && v >= low && v <= high {
		*n = int(v)
	} else if s.value != nil {
		r.fault(s, "want an integer from %d to %d", low, high)
	}
}

// duration sets a duration from low to high.
func (r *reader) duration(key string, d *time.Duration, low, high time.Duration) {
	s := r.get(key)
	if s.value == nil {
		return
	}
	if v, err := text.ParseDuration(s.word("s"), low, high); err != nil {
		r.fault(s, "%w", err)
	} else {
		*d = v
	}
}

// ladder sets the durations of the bans: a list, or a single one. Whether they
// rise is for [ruleset.Spec.Validate].
func (r *reader) ladder(key string, ladder *[]time.Duration) {
	s := r.get(key)
	if _, isList := s.value.([]any); !isList && s.value != nil {
		s.value = []any{s.value}
	}
	list(r, s, ladder, "durations", func(item setting) (time.Duration, error) {
		return text.ParseDuration(item.word("s"), minDuration, maxDuration)
	})
}

// word returns a value that may be written as a string or as an integer, which
// lacks the unit; or "", which is neither a duration nor a port.
func (s setting) word(unit string) string {
	switch v := s.value.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10) + unit
	}
	return ""
}

// ports sets a list of ports, in the order of the file. Overlaps are for
// [ruleset.Spec.Validate].
func (r *reader) ports(key string, ports *[]ruleset.Ports) {
	list(r, r.get(key), ports, "ports", func(item setting) (ruleset.Ports, error) { return parsePorts(item.word("")) })
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
		return ruleset.Ports{}, errors.New(`want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"`)
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

// single6 reads an element of a list of IPv6 prefixes.
func (r *reader) single6(item setting) (netip.Prefix, error) {
	s, _ := item.value.(string)
	all, err := addrlist.Parse(s)
	switch {
	case err != nil && !errors.Is(err, addrlist.ErrSyntax) && !strings.Contains(s, "-"):
		return netip.Prefix{}, err
	case err != nil || strings.Contains(s, "-") || all[0].Addr().Is4():
		return netip.Prefix{}, errors.New(`want an IPv6 prefix in quotes such as "2001:db8::/32"`)
	}
	if all[0].Bits() == 0 {
		r.warn(item, "every IPv6 address is banned alone: a host evades its ban with another address of its network")
	} else if note := doubtful(s, all); note != "" {
		r.warn(item, note)
	}
	return all[0], nil
}

// isFilePath reports whether s is an absolute path that can be that of a file.
func isFilePath(s string) bool {
	return filepath.IsAbs(s) && !strings.HasSuffix(s, "/") && !strings.Contains(s, "\x00")
}

// isMetrics wants a literal address: there may be no DNS when the watcher
// starts.
func isMetrics(s string) bool {
	at, err := metricsAddr(s)
	return s == "" || err == nil && at.Port() != 0
}

func metricsAddr(s string) (netip.AddrPort, error) {
	if port, ok := strings.CutPrefix(s, "localhost:"); ok {
		s = "127.0.0.1:" + port
	} else if strings.HasPrefix(s, ":") {
		s = "0.0.0.0" + s
	}
	return netip.ParseAddrPort(s)
}

func isTopic(s string) bool {
	u, err := url.Parse(s)
	return s == "" || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		u.User == nil && u.Fragment == "" && u.Path != "" && !strings.HasSuffix(u.Path, "/")
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
		return quote(withoutPassword(v))
	}
	data, _ := toml.Marshal(map[string]any{"v": v}) // cannot fail: it has been decoded
	s, _ := strings.CutPrefix(strings.TrimSpace(string(data)), "v = ")
	return text.Shorten(text.Printable(withoutPassword(s)), maxQuoted)
}

// withoutPassword leaves out what precedes an @, in which there may be one.
func withoutPassword(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}
