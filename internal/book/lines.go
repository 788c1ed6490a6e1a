package book

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// Version is that of the file's format. A change that an older portmon would
// misread raises it; a new key does not.
const Version = 2

const (
	format      = "portmon-state"
	headerStart = `{"format":"` + format + `"`
	rowStart    = `{"prefix":"`
)

// Header says when the rows around it were written.
type Header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Saved   time.Time `json:"saved"`
	Uptime  seconds   `json:"uptime_seconds"`
	Origin            // what the rows are about
	Rows    int       `json:"rows,omitempty"` // that follow, when the file was last rewritten
}

func newHeader(o Origin, now Clock) Header {
	return Header{
		Format: format, Version: Version, Saved: now.Wall.Truncate(time.Millisecond).UTC(),
		Uptime: seconds(time.Duration(now.Boot).Truncate(time.Millisecond)), Origin: o,
	}
}

func (h *Header) append(b []byte) []byte { return append(append(b, mustJSON(h)...), '\n') }

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("headers and strings are always JSON: " + err.Error())
	}
	return b
}

var errNotHeader = errors.New("its first line is not a header of portmon")

// parse reads a header. The error is errNotHeader, or a *RefusedError if it is
// that of a newer version.
func (h *Header) parse(line []byte) error {
	*h = Header{}
	err := json.Unmarshal(line, h) // of a newer version, what follows that may have other types
	if h.Format != format || h.Version < 1 {
		return errNotHeader
	}
	if h.Version > Version {
		return &RefusedError{
			Reason: "written by a newer portmon", Hint: "update portmon, or move the file away to begin without it",
		}
	}
	if err != nil || !isDate(h.Saved) {
		return errNotHeader
	}
	return nil
}

// Clock returns what both clocks showed.
func (h *Header) Clock() Clock { return Clock{Moment(h.Uptime), h.Saved} }

// isDate reports whether a time is one that a clock can have shown, and near
// which others can be written as dates.
func isDate(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 9000 }

// Encode writes rows for [Decode].
func Encode(w io.Writer, o Origin, now Clock, rows iter.Seq[Row]) error {
	return encode(w, newHeader(o, now), rows)
}

func encode(w io.Writer, h Header, rows iter.Seq[Row]) error {
	buf := bufio.NewWriterSize(w, 256<<10)
	line := h.append(nil)
	_, err := buf.Write(line)
	for r := range rows {
		if err != nil {
			return err
		}
		if r, _, ok := r.normalize(); ok {
			line = appendRow(line[:0], &r, h.Clock())
			_, err = buf.Write(line)
		}
	}
	return errors.Join(err, buf.Flush())
}

// appendRow writes a normalized row with dates of that clock. By hand, because
// half a million rows are to take less than a second.
func appendRow(b []byte, r *Row, c Clock) []byte {
	date := func(key string, m Moment) {
		b = append(c.Time(m).UTC().AppendFormat(append(b, key...), time.RFC3339Nano), '"')
	}
	number := func(key string, n int) { b = strconv.AppendInt(append(b, key...), int64(n), 10) }
	b = append(r.Source.AppendTo(append(b, rowStart...)), '"')
	switch {
	case r.Banned && r.Timeout == 0:
		b = append(b, `,"permanent":true`...)
	case r.Banned:
		b = appendSeconds(append(b, `,"timeout_seconds":`...), r.Timeout)
		date(`,"until":"`, r.Until)
	}
	if r.Step > 0 {
		number(`,"tier":`, r.Step)
		date(`,"tier_until":"`, r.StepUntil)
	}
	if r.Cause != ruleset.CauseUnknown {
		b = append(append(append(b, `,"cause":"`...), r.Cause.String()...), '"')
	}
	if r.Offences > 0 {
		number(`,"offences":`, r.Offences)
	}
	if r.First != 0 && r.First != r.Last {
		date(`,"first":"`, r.First)
	}
	if r.Last != 0 {
		date(`,"last":"`, r.Last)
	}
	if r.Proto != 0 {
		number(`,"last_protocol":`, int(r.Proto))
		number(`,"last_port":`, int(r.Port))
	}
	if r.ByHand {
		b = append(b, `,"by_hand":true`...)
	}
	if r.Comment != "" {
		b = append(append(b, `,"comment":`...), mustJSON(r.Comment)...)
	}
	return append(b, "}\n"...)
}

// appendFree writes that a source is unbanned and forgotten.
func appendFree(b []byte, source netip.Prefix) []byte {
	return append(source.AppendTo(append(b, rowStart...)), "\",\"free\":true}\n"...)
}

// appendSeconds writes a duration to the millisecond.
func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// seconds is a duration as JSON has it: a number of seconds, to the
// millisecond.
type seconds time.Duration

// MarshalJSON implements [json.Marshaler].
func (s seconds) MarshalJSON() ([]byte, error) { return appendSeconds(nil, time.Duration(s)), nil }

// UnmarshalJSON implements [json.Unmarshaler].
func (s *seconds) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(f >= 0 && f <= horizon.Seconds()) {
		return fmt.Errorf("%s is not a number of seconds", b)
	}
	*s = seconds(time.Duration(math.Round(f*1000)) * time.Millisecond)
	return nil
}

// parsed is what a line says, as far as it was read.
type parsed struct {
	clock           Clock // by which its dates are moments
	row             Row
	free, permanent bool
	ends            bool // there is an "until"
}

// parseRow reads a line about a source. The form in which lines are written is
// read ten times as fast as encoding/json does it; one that was edited may have
// another.
func parseRow(line []byte, c Clock) (r Row, k key, free, ok bool) {
	p := parsed{clock: c}
	if !p.parse(string(line)) {
		if p = (parsed{clock: c}); !p.parseJSON(line) {
			return r, k, false, false
		}
	}
	switch r = p.row; {
	case p.permanent:
		r.Banned, r.Timeout = true, 0
	case r.Timeout > 0:
		r.Banned = true
		if !p.ends {
			return r, k, false, false
		}
	}
	r, k, ok = r.normalize()
	return r, k, p.free, ok
}

// parse reads a line without spaces and escapes, and returns false for any
// other.
func (p *parsed) parse(rest string) bool {
	rest, ok := strings.CutPrefix(rest, "{")
	for ok {
		var key string
		if rest, ok = strings.CutPrefix(rest, `"`); !ok {
			break
		}
		if key, rest, ok = strings.Cut(rest, `":`); !ok || rest == "" {
			return false
		}
		end := strings.IndexByte(rest, ',')
		if rest[0] == '"' {
			end = strings.IndexByte(rest[1:], '"') + 2 // 1: there is none
		} else if end < 0 {
			end = strings.IndexByte(rest, '}')
		}
		if end < 1 || rest[:end] == `"` || strings.IndexByte(rest[:end], '\\') >= 0 || !p.set(key, rest[:end]) {
			return false
		}
		if rest = rest[end:]; rest == "}\n" {
			return true
		}
		rest, ok = strings.CutPrefix(rest, ",")
	}
	return false
}

func (p *parsed) parseJSON(line []byte) bool {
	var values map[string]json.RawMessage
	if json.Unmarshal(line, &values) != nil {
		return false
	}
	for key, v := range values {
		if v[0] == '"' {
			var text string
			if json.Unmarshal(v, &text) != nil {
				return false
			}
			v = []byte(`"` + text + `"`)
		}
		if !p.set(key, string(v)) {
			return false
		}
	}
	return true
}

// set takes the value of a key, a string in its quotes, and returns false if it
// cannot be one. Other keys may be those of a later version.
func (p *parsed) set(key, v string) bool {
	r := &p.row
	var err error
	text := func() string {
		if len(v) < 2 || v[0] != '"' {
			err = errors.New("not a string")
			return ""
		}
		return v[1 : len(v)-1]
	}
	flag := func() bool {
		if v != "true" && v != "false" {
			err = errors.New("neither true nor false")
		}
		return v == "true"
	}
	number := func(bits int) (n uint64) { n, err = strconv.ParseUint(v, 10, bits); return n }
	date := func() Moment {
		t, dateErr := time.Parse(time.RFC3339Nano, text())
		err = dateErr
		return p.clock.Boot.Add(min(max(t.Sub(p.clock.Wall), -horizon), horizon))
	}
	switch key {
	case "prefix":
		r.Source, err = netip.ParsePrefix(text())
	case "free":
		p.free = flag()
	case "permanent":
		p.permanent = flag()
	case "timeout_seconds":
		err = (*seconds)(&r.Timeout).UnmarshalJSON([]byte(v))
	case "until":
		r.Until, p.ends = date(), true
	case "tier":
		r.Step = int(number(31))
	case "tier_until":
		r.StepUntil = date()
	case "cause":
		r.Cause, _ = ruleset.ParseCause(text()) // unknown if a later version wrote it
	case "offences":
		r.Offences = int(number(31))
	case "first":
		r.First = date()
	case "last":
		r.Last = date()
	case "last_protocol":
		r.Proto = uint8(number(8))
	case "last_port":
		r.Port = uint16(number(16))
	case "by_hand":
		r.ByHand = flag()
	case "comment":
		r.Comment = text()
	}
	return err == nil
}
