package state

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// maxLine bounds a line, in bytes, so that a file which is one endless line does not end up in memory. The longest that is written,
// with a comment full of escapes, has less than half of it.
const maxLine = 4096

var errLongLine = errors.New("line too long")

// lines reads a file by lines and keeps a checksum of what was read.
type lines struct {
	r      *bufio.Reader
	crc    uint32 // of all that was read
	before uint32 // the same, without the line read last
	number int    // of that line, from 1
	torn   bool   // it is not ended by a newline
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line, valid until the next call: with its newline if it has one. The error is errLongLine for one that is
// passed over, io.EOF at the end, or that of reading.
func (l *lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if len(line) == 0 && err != nil {
		return nil, err
	}
	l.number++
	l.before = l.crc
	l.crc = crc32.Update(l.crc, castagnoli, line)
	long := len(line) > maxLine // as is a full buffer
	for errors.Is(err, bufio.ErrBufferFull) {
		var more []byte
		more, err = l.r.ReadSlice('\n')
		l.crc = crc32.Update(l.crc, castagnoli, more)
	}
	l.torn = errors.Is(err, io.EOF)
	switch {
	case err != nil && !l.torn:
		return nil, err
	case long:
		return nil, errLongLine
	}
	return line, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// trailer is the last line. A file without it is torn.
type trailer struct {
	End     bool
	Records int
	Sum     string `json:"crc32c"` // of all that is before this line
}

const trailerStart = `{"end":true`

func (t *trailer) parse(line []byte) bool { return json.Unmarshal(line, t) == nil && t.End }

// fits reports whether the checksum is that of what was read before it.
func (t *trailer) fits(l *lines) bool { return t.Sum == fmt.Sprintf("%08x", l.before) }

func (t *trailer) append(b []byte) []byte {
	return fmt.Appendf(b, trailerStart+`,"records":%d,"crc32c":"%s"}`+"\n", t.Records, t.Sum)
}

// sound reports whether a file is as it was written.
func sound(r io.Reader) bool {
	l := newLines(r)
	complete := false
	for {
		line, err := l.next()
		if err != nil {
			return complete && errors.Is(err, io.EOF)
		}
		var end trailer
		complete = !l.torn && bytes.HasPrefix(line, []byte(trailerStart)) && end.parse(line) && end.fits(l)
	}
}
