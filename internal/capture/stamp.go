package capture

import (
	"bytes"
	"errors"
	"strconv"
	"time"
)

// clock parses the times at the beginning of lines.
type clock struct {
	changed time.Time      // when the last line was written, as far as is known
	zone    *time.Location // of times that name none
	boot    time.Time      // when the kernel's own clock started, once that is needed
}

// stamped is a line whose time has been parsed.
type stamped struct {
	time time.Time
	rest []byte // what follows the time
	bare bool   // the kernel's message comes next, as in the output of dmesg
}

var errNoTime = errors.New("no recognised time at the beginning of the line")

// Times outside these years are faults, and might not fit in nanoseconds since
// 1970.
const firstYear, lastYear = 1970, 2200

// parse parses the time of a line, in the forms of syslog files (RFC 3164, RFC
// 3339), journalctl (short and its variants), dmesg and OpenWrt's logread.
func (c *clock) parse(line []byte) (stamped, error) {
	if i := bytes.IndexByte(line[:min(len(line), 5)], '>'); i > 0 && line[0] == '<' {
		line = line[i+1:] // the priority
	}
	s, err := stamped{}, errNoTime
	if len(line) < len("0.000000 x") {
		return s, err
	}
	switch first := line[0]; {
	case first == '[':
		s, err = c.bracket(line[1:])
	case '0' <= first && first <= '9':
		word, rest := cut(line)
		s.rest = rest
		if bytes.IndexByte(word, '-') < 0 {
			s.time, err = sinceEpoch(word)
			break
		}
		s.bare = bytes.IndexByte(word, ',') >= 0 // dmesg writes a comma, everything else a point
		if s.time, err = time.ParseInLocation("2006-01-02T15:04:05Z07:00", string(word), c.zone); err != nil {
			s.time, err = time.ParseInLocation("2006-01-02T15:04:05Z0700", string(word), c.zone)
		}
	case line[3] == ' ' && line[8] == '-': // "Sat 2022-05-07 14:13:26 UTC "
		s, err = c.words(line, 4, "Mon 2006-01-02 15:04:05 MST")
	case line[3] == ' ' && line[4] > '9': // "Sat May  7 14:13:26 2022 "
		s, err = c.words(line, 5, time.ANSIC)
	case line[3] == ' ': // "May  7 14:13:26 "
		if s, err = c.words(line, 3, time.Stamp); err == nil {
			s.time = c.withYear(s.time)
		}
	}
	if err != nil || s.time.Year() < firstYear || s.time.Year() > lastYear {
		return s, errNoTime
	}
	return s, nil
}

// words parses a time of n words. A day of one digit has two spaces before it.
func (c *clock) words(line []byte, n int, layout string) (stamped, error) {
	end, inWord := 0, false
	for ; end < min(len(line), 40); end++ {
		if line[end] != ' ' {
			inWord = true
		} else if inWord {
			inWord = false
			if n--; n == 0 {
				break
			}
		}
	}
	if n > 0 {
		return stamped{}, errNoTime
	}
	t, err := time.ParseInLocation(layout, string(line[:end]), c.zone)
	return stamped{time: t, rest: line[end+1:]}, err
}

// bracket parses the times of dmesg, "[   20.696792] " and
// "[Sat May  7 14:13:26 2022] ". If they count from boot, the first one in the
// file is taken for the time at which the file was written.
func (c *clock) bracket(line []byte) (stamped, error) {
	i := bytes.IndexByte(line[:min(len(line), 40)], ']')
	if i < 0 {
		return stamped{}, errNoTime
	}
	s := stamped{bare: true, rest: bytes.TrimPrefix(line[i+1:], []byte(" "))}
	t, err := sinceEpoch(bytes.TrimLeft(line[:i], " "))
	if err != nil {
		s.time, err = time.ParseInLocation(time.ANSIC, string(line[:i]), c.zone)
		return s, err
	}
	if c.boot.IsZero() {
		c.boot = c.changed.Add(-t.Sub(time.Unix(0, 0)))
	}
	s.time = c.boot.Add(t.Sub(time.Unix(0, 0)))
	return s, nil
}

// sinceEpoch parses seconds with microseconds, "1651932806.123456".
func sinceEpoch(word []byte) (time.Time, error) {
	whole, fraction, ok := bytes.Cut(word, []byte("."))
	seconds, err := strconv.ParseUint(string(whole), 10, 33)
	if err != nil || !ok || len(fraction) != 6 {
		return time.Time{}, errNoTime
	}
	micros, err := strconv.ParseUint(string(fraction), 10, 20)
	return time.Unix(int64(seconds), int64(micros)*1000), err
}

// withYear gives a time the last year in which it is not after the file's last
// change. So December before January falls into the year before, without any
// memory of other lines. A day is allowed for other time zones.
func (c *clock) withYear(t time.Time) time.Time {
	latest := c.changed.Add(24 * time.Hour).In(c.zone)
	for year := latest.Year(); ; year-- {
		with := time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), c.zone)
		if with.Day() == t.Day() && !with.After(latest) || year < firstYear { // 29 February is not in every year
			return with
		}
	}
}
