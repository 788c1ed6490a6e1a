package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
)

// The lines are written by hand, because a hundred thousand of them are to take no time, and read by encoding/json, because an
// administrator may have edited them.

// timeFormat is RFC 3339 in UTC to the millisecond, which is what the kernel counts in.
const timeFormat = "2006-01-02T15:04:05.000Z"

func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, timeFormat)
	return append(b, '"')
}

// AppendSeconds writes a duration, which is not negative, in seconds without the trailing zeros of its milliseconds.
func AppendSeconds(b []byte, d time.Duration) []byte {
	ms := d.Milliseconds()
	b = strconv.AppendInt(b, ms/1000, 10)
	if ms %= 1000; ms == 0 {
		return b
	}
	digits := [4]byte{'.', '0' + byte(ms/100), '0' + byte(ms/10%10), '0' + byte(ms%10)}
	n := len(digits)
	for digits[n-1] == '0' {
		n--
	}
	return append(b, digits[:n]...)
}

// appendString writes a string in such a way that any text stays on its line.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendQuoted(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendQuoted(b []byte, s string) []byte {
	var quoted bytes.Buffer
	enc := json.NewEncoder(&quoted)
	enc.SetEscapeHTML(false) // this is for people
	if err := enc.Encode(s); err != nil {
		panic("a string is always JSON: " + err.Error())
	}
	return append(b, bytes.TrimSuffix(quoted.Bytes(), []byte("\n"))...)
}

// seconds is a duration as JSON has it: a number of seconds, kept to the millisecond.
type seconds time.Duration

func (s *seconds) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f < 0 || f > maxSeconds {
		return fmt.Errorf("%s is no number of seconds", b)
	}
	*s = seconds(time.Duration(math.Round(f*1000)) * time.Millisecond)
	return nil
}

// maxSeconds is about a hundred years, longer than anything that is saved.
const maxSeconds = 100 * 365 * 24 * 3600
