package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// export reads the output of `journalctl -o export`
// (systemd.io/JOURNAL_EXPORT_FORMATS): a line for each field, and an empty line
// after each entry. A value that is not text is preceded by its length.
type export struct {
	in      *source
	entry   entry
	message []byte
}

func (f *export) read(p *Packet) error {
	var micros, transport string
	f.message = f.message[:0]
	begin, fields := f.in.next, 0
	for {
		line, err := f.in.readLine()
		switch {
		case err == io.EOF && fields > 0:
			return damage{errCut}
		case errors.Is(err, errLong): // nothing that the kernel writes
			fields++
			continue
		case err != nil:
			return err
		}
		if len(line) == 0 {
			if fields > 0 && bytes.Contains(f.message, source4) {
				f.in.start = begin
				if err := f.entry.journal(p, micros, transport, f.message); err != errNotIP {
					return err
				}
			}
			micros, transport, f.message = "", "", f.message[:0]
			begin, fields = f.in.next, 0
			continue
		}
		fields++
		name, value, text := bytes.Cut(line, []byte("="))
		if !text {
			if value, err = f.binary(); err != nil {
				return err
			}
		}
		switch string(name) {
		case "__REALTIME_TIMESTAMP":
			micros = string(value[:min(len(value), 24)])
		case "_TRANSPORT":
			transport = string(value[:min(len(value), 24)])
		case "MESSAGE":
			f.message = append(f.message[:0], value...)
		}
	}
}

// binary returns a value that is preceded by its length and followed by a
// newline, or nil if it is longer than a line may be.
func (f *export) binary() ([]byte, error) {
	b, err := f.in.peek(8)
	if err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(b)
	if length > maxBlock {
		return nil, fmt.Errorf("a field of %d bytes: the file is damaged from here on", length)
	}
	if n := 8 + int(length) + 1; length > maxLine {
		return nil, f.in.skip(n)
	} else if b, err = f.in.peek(n); err != nil {
		return nil, err
	} else {
		return b[8 : n-1], f.in.skip(n)
	}
}
