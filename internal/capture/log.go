package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// log reads lines of syslog, of dmesg and of journalctl, which may be mixed.
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

// source4 is in every line about a packet.
var source4 = []byte(" SRC=")

// fromKernel returns what the kernel says in a line, behind the name of the host
// and of the kernel. Nobody else is believed: what a stranger gives for a name
// to log in with is in the same files.
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
	if len(message) > 0 && message[0] == '[' { // the kernel's own time, which may stand behind that of syslog
		if i := bytes.IndexByte(message[:min(len(message), 24)], ']'); i > 0 {
			if _, err := sinceEpoch(bytes.TrimLeft(message[1:i], " ")); err == nil {
				message = bytes.TrimPrefix(message[i+1:], []byte(" "))
			}
		}
	}
	return message, true
}

// cut returns the first word of b, and what is behind the blank after it.
func cut(b []byte) (word, rest []byte) {
	if i := bytes.IndexByte(b, ' '); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// journalObject returns the object of a line that journalctl prints as json,
// json-sse or json-seq, or nil.
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

// journal takes the packet out of an entry of the journal. That the kernel wrote
// it is in a field that nobody else can set.
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
