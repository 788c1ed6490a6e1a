package book

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// rawRow is a line as it is written, and may have been edited.
type rawRow struct {
	Prefix      netip.Prefix
	Free, Merge bool
	Permanent   bool
	Timeout     seconds `json:"timeout_seconds"`
	Until       time.Time
	Tier        int
	TierUntil   time.Time `json:"tier_until"`
	Cause       string
	Offences    int
	First, Last time.Time
	Proto       uint8  `json:"last_protocol"`
	Port        uint16 `json:"last_port"`
	ByHand      bool   `json:"by_hand"`
	Comment     string
}

// row returns the row whose dates are moments of a clock, and its key.
func (raw *rawRow) row(c Clock) (r Row, k key, ok bool) {
	moment := func(t time.Time) Moment {
		if t.IsZero() {
			return 0
		}
		return c.Boot.Add(min(max(t.Sub(c.Wall), -horizon), horizon))
	}
	cause, _ := ruleset.ParseCause(raw.Cause) // unknown if a later version wrote it
	r = Row{
		Source: raw.Prefix, Banned: raw.Permanent || raw.Timeout > 0, ByHand: raw.ByHand, Comment: raw.Comment,
		Step: raw.Tier, StepUntil: moment(raw.TierUntil), Cause: cause,
		Offences: raw.Offences, First: moment(raw.First), Last: moment(raw.Last), Proto: raw.Proto, Port: raw.Port,
	}
	if r.Banned && !raw.Permanent {
		if r.Timeout, r.Until = time.Duration(raw.Timeout), moment(raw.Until); raw.Until.IsZero() {
			return Row{}, key{}, false // a ban without an end
		}
	}
	return r.normalize()
}

// decode reads a line: one of the very form in which rows are written, and
// hardly any is of another one, ten times as fast as encoding/json.
func (raw *rawRow) decode(line string) error {
	*raw = rawRow{}
	s := scanner{rest: line}
	var err error
	raw.Prefix, err = netip.ParsePrefix(s.value(rowStart))
	raw.Free = s.skip(`,"free":true`)
	raw.Merge = s.skip(`,"merge":true`)
	raw.Permanent = s.skip(`,"permanent":true`)
	if v := s.value(`,"timeout_seconds":`); v != "" {
		s.bad = raw.Timeout.UnmarshalJSON([]byte(v)) != nil || s.bad
	}
	s.date(`,"until":"`, &raw.Until)
	raw.Tier = int(s.number(`,"tier":`, 31))
	s.date(`,"tier_until":"`, &raw.TierUntil)
	raw.Cause = s.value(`,"cause":"`)
	raw.Offences = int(s.number(`,"offences":`, 31))
	s.date(`,"first":"`, &raw.First)
	s.date(`,"last":"`, &raw.Last)
	raw.Proto = uint8(s.number(`,"last_protocol":`, 8))
	raw.Port = uint16(s.number(`,"last_port":`, 16))
	raw.ByHand = s.skip(`,"by_hand":true`)
	raw.Comment = s.value(`,"comment":"`)
	if err == nil && !s.bad && s.rest == "}\n" {
		return nil
	}
	*raw = rawRow{}
	return json.Unmarshal([]byte(line), raw)
}

// scanner reads the keys of a line in the order in which they are written. It
// is bad if a value may not be what it seems.
type scanner struct {
	rest string
	bad  bool
}

func (s *scanner) skip(text string) (ok bool) {
	s.rest, ok = strings.CutPrefix(s.rest, text)
	return ok
}

// value returns the string or number behind a key, "" if it is not there.
func (s *scanner) value(key string) string {
	if !s.skip(key) {
		return ""
	}
	v, rest, ok := "", strings.TrimLeft(s.rest, "0123456789."), true
	if strings.HasSuffix(key, `"`) {
		v, rest, ok = strings.Cut(s.rest, `"`)
	} else {
		v = s.rest[:len(s.rest)-len(rest)]
	}
	s.rest, s.bad = rest, s.bad || !ok || v == "" || strings.IndexByte(v, '\\') >= 0
	return v
}

func (s *scanner) date(key string, t *time.Time) {
	if v := s.value(key); v != "" {
		var err error
		*t, err = time.Parse(time.RFC3339Nano, v)
		s.bad = s.bad || err != nil
	}
}

func (s *scanner) number(key string, bits int) uint64 {
	v := s.value(key)
	n, err := strconv.ParseUint(v, 10, bits)
	s.bad = s.bad || v != "" && (err != nil || v[0] == '0' && v != "0")
	return n
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
