package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// log reads lines of syslog, dmesg and journalctl, which may be mixed.
type log struct {
	in    *source
	clock clock
	entry entry
}

func (f *log) read(p *Packet) error {
	for {
		line, err := f.in.readLine()
		if err != nil {
			return err
		}
		if !bytes.Contains(line, source4) {
			continue
		}
		if object := journalObject(line); object != nil {
			if err := f.journal(p, object); err != errNotIP {
				return err
			}
			continue
		}
		s, err := f.clock.parse(line)
		if err != nil {
			return damage{err}
		}
		if message, ok := fromKernel(s.rest, s.bare); ok {
			p.Time = s.time
			if err := f.entry.parse(message, p); err != errNotIP {
				return err
			}
		}
	}
}

// source4 occurs in every line about a packet.
var source4 = []byte(" SRC=")

// fromKernel returns the kernel's message in a line, without the name of the
// host and "kernel:" before it. Lines of other programs do not count: they
// quote strangers, as in the name of a failed login.
func fromKernel(b []byte, bare bool) ([]byte, bool) {
	_, behindHost := cut(b)
	name, message := cut(behindHost)
	if bytes.HasPrefix(name, []byte("kern.")) { // BusyBox names the facility
		name, message = cut(message)
	}
	switch {
	case string(name) == "kernel:":
	case bare:
		message = b
	default:
		return nil, false
	}
	if len(message) > 0 && message[0] == '[' { // the kernel's own time, which may follow that of syslog
		if i := bytes.IndexByte(message[:min(len(message), 24)], ']'); i > 0 {
			if _, err := sinceEpoch(bytes.TrimLeft(message[1:i], " ")); err == nil {
				message = bytes.TrimPrefix(message[i+1:], []byte(" "))
			}
		}
	}
	return message, true
}

// cut returns the first word of b, and what follows the space after it.
func cut(b []byte) (word, rest []byte) {
	if i := bytes.IndexByte(b, ' '); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// journalObject returns the JSON object in a line of journalctl's json,
// json-sse or json-seq output, or nil if there is none.
func journalObject(line []byte) []byte {
	line = bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("data: ")), []byte("\x1e"))
	if len(line) > 0 && line[0] == '{' {
		return line
	}
	return nil
}

func (f *log) journal(p *Packet, object []byte) error {
	var fields struct {
		Time      string `json:"__REALTIME_TIMESTAMP"`
		Transport string `json:"_TRANSPORT"`
		Message   string `json:"MESSAGE"`
	}
	if err := json.Unmarshal(object, &fields); err != nil {
		return damagef("an entry of the journal: %w", err)
	}
	return f.entry.journal(p, fields.Time, fields.Transport, []byte(fields.Message))
}

// journal takes the packet from a journal entry. Only entries of the kernel
// count: their transport is in a field that clients cannot set.
func (e *entry) journal(p *Packet, micros, transport string, message []byte) error {
	if transport != "kernel" {
		return errNotIP
	}
	t, err := strconv.ParseInt(micros, 10, 64)
	if p.Time = time.UnixMicro(t); err != nil || p.Time.Year() < firstYear || p.Time.Year() > lastYear {
		return damagef("an entry of the journal with the time %q", fmt.Sprintf("%.20s", micros))
	}
	return e.parse(message, p)
}
