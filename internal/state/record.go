package state

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/portmon/portmon/internal/ledger"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/ruleset"
)

// Record is what is remembered of a source, or of a prefix that was banned: its ban, its offences, or both. Times are kept to the
// millisecond.
type Record struct {
	Prefix netip.Prefix

	// Banned tells that there is a ban: in the set of a tier, from 1, or for 0 in the set of prefixes. It is to be what the kernel has,
	// not what it will have once an edit is made: what the kernel does not have later is taken as lifted by hand.
	Banned bool
	Tier   int
	// Timeout is how long the ban is; 0 means for ever.
	Timeout time.Duration
	// Left is the time from the moment of saving until the ban ends. Of a source that is not banned it is the time until its last
	// ban ended, which is not positive.
	Left time.Duration
	// ByHand tells that an administrator or another program made the ban, and Comment what they had to say about it.
	ByHand  bool
	Comment string

	// Offences is how many count, 0 or more.
	Offences int
	// Age is how long the last of them was ago at the moment of saving.
	Age time.Duration
	// Proto and Port are its IP protocol and its port; both 0 if they are not known.
	Proto uint8
	Port  uint16
}

// maxComment is how many bytes of a comment the kernel takes.
const maxComment = 253

// check returns what is wrong with a record.
func (r *Record) check() error {
	a := r.Prefix.Addr()
	switch {
	case !r.Prefix.IsValid() || a.Is4In6() || r.Prefix != r.Prefix.Masked():
		return errors.New("no prefix")
	case r.Tier < 0 || r.Tier > ruleset.MaxSteps || r.Tier > 0 && a.Is4() && !r.Prefix.IsSingleIP():
		return errors.New("no tier of the prefix")
	case r.Timeout < 0 || r.Timeout > ruleset.MaxBanTime:
		return errors.New("no timeout")
	case r.Offences < 0 || r.Offences > math.MaxInt32:
		return errors.New("no number of offences")
	case !r.Banned && r.Offences == 0:
		return errors.New("neither a ban nor an offence")
	}
	return nil
}

func (r *Record) append(b []byte, saved time.Time) []byte {
	b = append(r.Prefix.AppendTo(append(b, `{"prefix":"`...)), '"')
	forever := r.Banned && r.Timeout == 0
	if r.Banned {
		b = strconv.AppendInt(append(b, `,"tier":`...), int64(r.Tier), 10)
		if forever {
			b = append(b, `,"permanent":true`...)
		} else {
			b = AppendSeconds(append(b, `,"timeout_seconds":`...), r.Timeout)
		}
	}
	if !forever {
		b = appendTime(append(b, `,"until":`...), saved.Add(r.Left.Round(time.Millisecond)))
	}
	if r.Offences > 0 {
		b = strconv.AppendInt(append(b, `,"offences":`...), int64(r.Offences), 10)
		b = appendTime(append(b, `,"last":`...), saved.Add(-r.Age.Round(time.Millisecond)))
	}
	if r.Proto != 0 {
		b = append(append(append(b, `,"last_protocol":"`...), ledger.ProtocolName(r.Proto)...), '"')
		b = strconv.AppendUint(append(b, `,"last_port":`...), uint64(r.Port), 10)
	}
	if r.ByHand {
		b = append(b, `,"by_hand":true`...)
	}
	if r.Comment != "" {
		b = appendString(append(b, `,"reason":`...), cut(r.Comment))
	}
	return append(b, "}\n"...)
}

// rawRecord is a line as it is written, and may have been edited.
type rawRecord struct {
	Prefix    netip.Prefix
	Tier      int
	Permanent bool
	Timeout   seconds `json:"timeout_seconds"`
	Until     time.Time
	ByHand    bool `json:"by_hand"`
	Reason    string
	Offences  int
	Last      time.Time
	Proto     string `json:"last_protocol"`
	Port      uint16 `json:"last_port"`
}

// parse reads a record that was saved at that time.
func (r *Record) parse(line []byte, saved time.Time) error {
	var raw rawRecord
	if !raw.scan(line) {
		raw = rawRecord{}
		if err := json.Unmarshal(line, &raw); err != nil {
			return err
		}
	}
	*r = Record{Prefix: raw.Prefix.Masked(), Banned: raw.Permanent || raw.Timeout != 0, Offences: raw.Offences}
	if r.Banned {
		r.Tier, r.ByHand, r.Comment = raw.Tier, raw.ByHand, cut(raw.Reason)
	}
	switch {
	case raw.Permanent:
	case raw.Until.IsZero():
		return errors.New("no end")
	default:
		r.Timeout = time.Duration(raw.Timeout)
		r.Left = bound(raw.Until.Sub(saved))
	}
	if raw.Offences > 0 {
		if raw.Last.IsZero() {
			return errors.New("no time of the last offence")
		}
		r.Age = max(0, bound(saved.Sub(raw.Last)))
	}
	if !r.Banned {
		r.Left = min(r.Left, 0)
	}
	var err error
	if r.Proto, err = parseProto(raw.Proto); err != nil {
		return err
	}
	if r.Proto != 0 {
		r.Port = raw.Port
	}
	return r.check()
}

// bound keeps a time within what a date can be written of.
func bound(d time.Duration) time.Duration {
	return min(max(d.Round(time.Millisecond), -maxSeconds*time.Second), maxSeconds*time.Second)
}

func parseProto(s string) (uint8, error) {
	switch s {
	case "":
		return 0, nil
	case "tcp":
		return unix.IPPROTO_TCP, nil
	case "udp":
		return unix.IPPROTO_UDP, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return uint8(n), err
}

// cut returns as much of a comment as the kernel takes.
func cut(s string) string {
	if len(s) <= maxComment {
		return s
	}
	s = s[:maxComment]
	for !utf8.ValidString(s) && len(s) > maxComment-utf8.UTFMax {
		s = s[:len(s)-1]
	}
	return s
}
