package daemon

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// JournalSocket is where the journal of systemd takes entries that have fields.
const JournalSocket = "/run/systemd/journal/socket"

// journald writes lines to the journal of systemd as entries, in which what a
// line says is in fields as well.
type journald struct {
	stderr io.Writer // for what the journal does not take, as while it begins anew
	fd     int       // not connected, for the same reason
	to     unix.SockaddrUnix
}

// Journald returns what writes to a socket of the journal, if standard error is
// the journal as JOURNAL_STREAM names it; otherwise it is standard error.
func Journald(stderr io.Writer, stream, socket string) io.Writer {
	file, ok := stderr.(*os.File)
	var st unix.Stat_t
	if !ok || stream == "" || unix.Fstat(int(file.Fd()), &st) != nil || stream != fmt.Sprintf("%d:%d", st.Dev, st.Ino) {
		return stderr
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return stderr
	}
	return &journald{stderr, fd, unix.SockaddrUnix{Name: socket}}
}

// Write takes a line of slog.
func (j *journald) Write(line []byte) (int, error) {
	if unix.Sendto(j.fd, entry(string(bytes.TrimSuffix(line, []byte("\n")))), 0, &j.to) == nil {
		return len(line), nil
	}
	return j.stderr.Write(line)
}

// entry returns a line in the journal's own format. It is the message, so that
// who reads lines reads the same. Its fields follow, as far as it is whole.
func entry(line string) []byte {
	var out []byte
	put := func(name, value string) {
		if strings.Contains(value, "\n") {
			out = append(out, name+"\n"...)
			out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
		} else {
			out = append(out, name+"="...)
		}
		out = append(out, value+"\n"...)
	}
	put("SYSLOG_IDENTIFIER", "portmon")
	put("MESSAGE", line)
	for line != "" {
		name, rest, ok := strings.Cut(line, "=")
		value, rest, whole := unquoted(rest)
		if !ok || !whole {
			break
		}
		switch line = rest; name {
		case "level":
			put("PRIORITY", map[string]string{"ERROR": "3", "WARN": "4", "INFO": "6"}[value])
		case "msg":
			put("PORTMON_EVENT", value)
		default:
			put("PORTMON_"+strings.ToUpper(name), value)
		}
	}
	return out
}

// unquoted returns the value that a text begins with, and what follows it.
func unquoted(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, " ")
		return value, rest, true
	}
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", false
	}
	value, err = strconv.Unquote(quoted)
	return value, strings.TrimPrefix(s[len(quoted):], " "), err == nil
}
