package book

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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
	Cause       Cause
	Offences    int
	First, Last time.Time
	Proto       string `json:"last_protocol"`
	Port        uint16 `json:"last_port"`
	ByHand      bool   `json:"by_hand"`
	Comment     string
}

// row returns the row whose dates are moments of a clock.
func (raw *rawRow) row(c Clock) (Row, error) {
	moment := func(t time.Time) Moment {
		if t.IsZero() {
			return 0
		}
		return c.Boot.Add(min(max(t.Sub(c.Wall), -horizon), horizon))
	}
	r := Row{
		Source: raw.Prefix, Banned: raw.Permanent || raw.Timeout > 0, ByHand: raw.ByHand, Comment: raw.Comment,
		Step: raw.Tier, StepUntil: moment(raw.TierUntil), Cause: raw.Cause,
		Offences: raw.Offences, First: moment(raw.First), Last: moment(raw.Last), Port: raw.Port,
	}
	if r.Banned && !raw.Permanent {
		if r.Timeout, r.Until = time.Duration(raw.Timeout), moment(raw.Until); raw.Until.IsZero() {
			return Row{}, errors.New("a ban without an end")
		}
	}
	if !slices.Contains(causes, r.Cause) {
		r.Cause = CauseUnknown // one of a later version
	}
	switch raw.Proto {
	case "":
	case "tcp":
		r.Proto = unix.IPPROTO_TCP
	case "udp":
		r.Proto = unix.IPPROTO_UDP
	default:
		n, err := strconv.ParseUint(raw.Proto, 10, 8)
		if err != nil {
			return Row{}, err
		}
		r.Proto = uint8(n)
	}
	r, ok := r.normalize()
	if !ok {
		return Row{}, errors.New("not a row")
	}
	return r, nil
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
	if v := s.number(`,"timeout_seconds":`); v != "" {
		s.bad = raw.Timeout.UnmarshalJSON([]byte(v)) != nil || s.bad
	}
	s.date(`,"until":"`, &raw.Until)
	raw.Tier = int(s.integer(`,"tier":`, 31))
	s.date(`,"tier_until":"`, &raw.TierUntil)
	raw.Cause = Cause(s.value(`,"cause":"`))
	raw.Offences = int(s.integer(`,"offences":`, 31))
	s.date(`,"first":"`, &raw.First)
	s.date(`,"last":"`, &raw.Last)
	raw.Proto = s.value(`,"last_protocol":"`)
	raw.Port = uint16(s.integer(`,"last_port":`, 16))
	raw.ByHand = s.skip(`,"by_hand":true`)
	raw.Comment = s.value(`,"comment":"`)
	if err == nil && !s.bad && s.rest == "}\n" {
		return nil
	}
	*raw = rawRow{}
	return json.Unmarshal([]byte(line), raw)
}

// scanner reads the keys of a line in the order in which they are written. It is
// bad if a value may not be what it seems.
type scanner struct {
	rest string
	bad  bool
}

func (s *scanner) skip(text string) (ok bool) {
	s.rest, ok = strings.CutPrefix(s.rest, text)
	return ok
}

// value returns the string behind a key, "" if it is not there.
func (s *scanner) value(key string) string {
	if !s.skip(key) {
		return ""
	}
	v, rest, ok := strings.Cut(s.rest, `"`)
	s.rest = rest
	s.bad = s.bad || !ok || v == "" || strings.IndexByte(v, '\\') >= 0
	return v
}

func (s *scanner) date(key string, t *time.Time) {
	if v := s.value(key); v != "" {
		s.bad = t.UnmarshalText([]byte(v)) != nil || s.bad
	}
}

// number returns the digits and points behind a key, "" if it is not there.
func (s *scanner) number(key string) string {
	if !s.skip(key) {
		return ""
	}
	i := 0
	for i < len(s.rest) && (s.rest[i] >= '0' && s.rest[i] <= '9' || s.rest[i] == '.') {
		i++
	}
	v := s.rest[:i]
	s.rest = s.rest[i:]
	s.bad = s.bad || v == "" || v[0] == '0' && len(v) > 1 && v[1] != '.'
	return v
}

func (s *scanner) integer(key string, bits int) uint64 {
	v := s.number(key)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, bits)
	s.bad = s.bad || err != nil
	return n
}

// seconds is a duration as JSON has it: a number of seconds, to the millisecond.
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
