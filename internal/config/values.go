package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/portmon/portmon/internal/addrlist"
	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// What most keys accept: from the shortest duration that can be written to the
// longest that a set can hold.
const (
	minDuration = time.Second
	maxDuration = ruleset.MaxBanTime
)

// maxFleetBan is the longest ban that a fleet makes.
const maxFleetBan = 30 * 24 * time.Hour

// maxDatabases is how many may be listed: each is mapped as long as it is used.
const maxDatabases = 16

// setting is a value of the file, nil if it is not there; or an element of a
// list, with the key of the list.
type setting struct {
	*reader
	key   string // in full, such as "trap.tcp"
	value any
}

// secrets are the keys whose values messages do not repeat: a URL may have a
// password or a token in it, and so may arguments; and in place of the file of a
// token there may be the token.
var secrets = []string{"watch.ntfy", "watch.ntfy_token_file", "watch.command", "report.abuseipdb_key_file"}

// report adds to the faults or the warnings what is wrong with the value, or
// with the key if there is none.
func (s setting) report(to *Errors, err error) {
	table, _, _ := strings.Cut(s.key, ".")
	at := cmp.Or(s.places[s.key], s.places[table]) // the keys of inline tables are not found
	if value := source(s.value); value != "" && !slices.Contains(secrets, s.key) {
		err = fmt.Errorf("%s: %w", value, err)
	}
	to.add(&Error{s.file, at.line, at.column, fmt.Errorf("%s: %w", text.Shorten(s.key, maxQuoted), err)})
}

// one sets what a value says, and many what the elements of a list say. If there
// is none, or it is wrong, the default stays in place. One returns false if the
// value is wrong.
func one[T any](s setting, to *T, read func(setting) (T, error)) bool {
	if s.value == nil {
		return true
	}
	value, err := read(s)
	if err != nil {
		s.report(&s.faults, err)
		return false
	}
	*to = value
	return true
}

func many[T any](s setting, to *[]T, read func(setting) (T, error)) {
	values, ok := s.value.([]any)
	if !ok && s.value != nil {
		s.report(&s.faults, errors.New("want a list in brackets"))
	}
	var all []T
	for _, v := range values {
		var item T
		if one(setting{s.reader, s.key, v}, &item, read) {
			all = append(all, item)
		}
	}
	if ok && (len(all) > 0 || len(values) == 0) {
		*to = all
	}
}

// inList makes a list of a single value.
func (s setting) inList() setting {
	if _, ok := s.value.([]any); !ok && s.value != nil {
		s.value = []any{s.value}
	}
	return s
}

// The functions below return what reads a value. The error says what is wanted.

func validString(valid func(string) bool, want string) func(setting) (string, error) {
	return func(s setting) (string, error) {
		if v, ok := s.value.(string); ok && valid(v) {
			return v, nil
		}
		return "", errors.New("want " + want)
	}
}

func integer[T int | uint32](low, high T) func(setting) (T, error) {
	return func(s setting) (T, error) {
		if v, ok := s.value.(int64); ok && v >= int64(low) && v <= int64(high) {
			return T(v), nil
		}
		return 0, fmt.Errorf("want an integer from %d to %d", low, high)
	}
}

func duration(low, high time.Duration) func(setting) (time.Duration, error) {
	return func(s setting) (time.Duration, error) { return text.ParseDuration(s.text(), low, high) }
}

// text returns a string, or an integer as one; or "", which is neither a
// duration nor a port.
func (s setting) text() string {
	switch v := s.value.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

// mode reads whether the table only observes.
func mode(s setting) (observe bool, err error) {
	if v, ok := s.value.(string); ok && (v == "observe" || v == "enforce") {
		return v == "observe", nil
	}
	return false, errors.New(`want "enforce", or "observe" to count and log and drop nothing`)
}

// port reads a single port, as a number.
func port(s setting) (uint16, error) {
	if n, ok := s.value.(int64); ok && n >= 1 && n <= 65535 {
		return uint16(n), nil
	}
	return 0, errors.New("want a port from 1 to 65535")
}

func ports(s setting) (ruleset.Ports, error) { return ParsePorts(s.text()) }

// ParsePorts reads "22" or "5900-5910". Overlaps are for [ruleset.Spec.Validate].
func ParsePorts(text string) (ruleset.Ports, error) {
	first, last, isRange := strings.Cut(text, "-")
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

// addresses sets a list of addresses, prefixes and ranges, as the fewest prefixes.
func addresses(s setting, to *[]netip.Prefix) {
	all := [][]netip.Prefix{*to}
	many(s, &all, func(item setting) ([]netip.Prefix, error) {
		entry, _ := item.value.(string)
		prefixes, err := addrlist.Parse(entry)
		if err != nil {
			return nil, err
		}
		if note := doubtful(entry, prefixes); note != "" {
			item.report(&s.warnings, errors.New(note))
		}
		return prefixes, nil
	})
	*to = slices.Concat(all...)
}

// hostName reads the name of a host, in full.
func hostName(s setting) (string, error) {
	text, _ := s.value.(string)
	name := strings.TrimSuffix(strings.ToLower(text), ".")
	if _, err := addrlist.Parse(text); err == nil {
		return "", errors.New("that is no name: want it in whitelist")
	}
	if !names.Valid(name) {
		return "", errors.New(`want the name of a host, such as "home.example.org"; letters beyond ASCII as "xn--…"`)
	}
	return name, nil
}

// isFilePath reports whether s is an absolute path that can be that of a file.
func isFilePath(s string) bool {
	_, name := filepath.Split(s)
	return filepath.IsAbs(s) && !slices.Contains([]string{"", ".", ".."}, name) && !strings.Contains(s, "\x00")
}

// isMetrics wants a literal address: there may be no DNS when the watcher
// starts.
func isMetrics(s string) bool {
	at, err := metricsAddr(s)
	return s == "" || err == nil && at.Port() != 0
}

func metricsAddr(s string) (netip.AddrPort, error) {
	return netip.ParseAddrPort(strings.Replace(s, "localhost:", "127.0.0.1:", 1))
}

func isTopic(s string) bool {
	u, err := url.Parse(s)
	return s == "" || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		u.User == nil && u.Fragment == "" && u.Path != "" && !strings.HasSuffix(u.Path, "/")
}

// source writes a value as TOML does, on one line, shortened if it is long. It
// returns "" for a URL, which may have a password in it.
func source(v any) string {
	data, _ := toml.Marshal(map[string]any{"v": v}) // cannot fail: it has been decoded
	s, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "v = ")
	if !ok || strings.Contains(s, "@") || strings.Contains(s, "://") {
		return "" // of a table, the keys have their own lines
	}
	if value, ok := v.(string); ok {
		return quote(value)
	}
	return text.Shorten(s, maxQuoted)
}
