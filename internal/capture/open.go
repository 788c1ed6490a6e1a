package capture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Reader reads the packets of one file, in the order of the file.
type Reader struct {
	name   string
	file   io.Closer
	raw    *counter
	size   int64
	in     *source
	format format
	packet Packet // kept here, so that Read need not allocate one
	last   time.Time
	err    error
}

// Open opens a file of any kind that this package reads. It may be a pipe.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	r, err := newReader(path, f, info.ModTime())
	if err != nil {
		f.Close()
		if errors.As(err, new(*fs.PathError)) {
			return nil, err // it says that itself
		}
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	r.file = f
	if info.Mode().IsRegular() {
		r.size = info.Size()
	}
	return r, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Progress returns how many bytes of the file have been read, and the size that
// it had when it was opened, or 0 for a pipe.
func (r *Reader) Progress() (read, size int64) { return r.raw.n, r.size }

// newReader recognises the kind of file by its first bytes. changed is when the
// file was last modified, that is, when the last line of a log was written.
func newReader(name string, file io.Reader, changed time.Time) (*Reader, error) {
	r := &Reader{name: name, raw: &counter{Reader: file}}
	buffered := bufio.NewReaderSize(r.raw, 64<<10)
	unpacked := io.Reader(buffered)
	if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, err
		}
		if !z.ModTime.IsZero() {
			changed = z.ModTime
		}
		unpacked = z
	}
	r.in = &source{buf: bufio.NewReaderSize(unpacked, bufferSize)}
	var err error
	r.format, err = recognise(r.in, changed)
	return r, err
}

func recognise(in *source, changed time.Time) (format, error) {
	switch magic, _ := in.buf.Peek(4); { // no more, because a pipe may not have more yet
	case isPcap(magic):
		return newPcap(in)
	case string(magic) == ngMagic:
		return &pcapng{in: in}, nil
	case bytes.HasPrefix(magic, []byte("__")):
		return &export{in: in}, nil
	}
	head, err := in.buf.Peek(maxLine)
	if len(head) == 0 && err != io.EOF {
		return nil, err
	}
	log := &log{in: in, clock: clock{changed: changed, zone: time.Local}}
	for line := range bytes.Lines(head) {
		if journalObject(line) != nil && bytes.Contains(line, []byte("__REALTIME_TIMESTAMP")) {
			return log, nil
		}
		if _, err := log.clock.parse(line); err == nil {
			return log, nil
		}
	}
	if len(head) == 0 { // a log that was rotated a moment ago
		return log, nil
	}
	return nil, fmt.Errorf("neither a capture (pcap, pcapng) nor a log with times: it begins with %q", head[:min(len(head), 16)])
}

// counter counts the bytes that are read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	return n, err
}

const (
	maxLine    = 64 << 10
	maxRecord  = 256 << 10 // the longest packet that tcpdump and Wireshark accept
	bufferSize = 2 * maxRecord
)

var (
	errCut  = errors.New("the file ends within this record")
	errLong = fmt.Errorf("more than the %d that are read", maxLine)
)

// source hands out the records of a file without copying them, and keeps track
// of where they begin.
type source struct {
	buf   *bufio.Reader
	start int64 // where the record that is being read begins
	next  int64 // where the next one begins
	line  int   // the number of the line, in a log
	cut   bool  // the file ended within a record
}

// peek returns the next n bytes, at most bufferSize, without consuming them. At
// the end it returns io.EOF; if fewer than n are left, it discards them and
// reports damage.
func (s *source) peek(n int) ([]byte, error) {
	b, err := s.buf.Peek(n)
	if err != nil {
		if len(b) == 0 && err == io.EOF {
			return nil, io.EOF
		}
		s.skip(len(b))
		return nil, s.cutOff(err)
	}
	return b, nil
}

// skip discards n bytes.
func (s *source) skip(n int) error {
	skipped, err := s.buf.Discard(n)
	s.next += int64(skipped)
	if err != nil {
		return s.cutOff(err)
	}
	return nil
}

// cutOff returns the error for a record that ends too early. A file that was
// truncated, perhaps within its gzip stream, is damaged once and then at its
// end.
func (s *source) cutOff(err error) error {
	switch {
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		return err
	case s.cut:
		return io.EOF
	}
	s.cut = true
	return damage{errCut}
}

// readLine returns the next line without its line ending. It skips a line
// longer than maxLine, and reports that as damage.
func (s *source) readLine() ([]byte, error) {
	s.start = s.next
	s.line++
	length := 0
	for {
		b, err := s.buf.ReadSlice('\n')
		length += len(b)
		s.next += int64(len(b))
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && length == 0:
			return nil, io.EOF
		case err != nil && err != io.EOF:
			return nil, s.cutOff(err)
		case length > maxLine:
			return nil, damagef("a line of %d bytes, %w", length, errLong)
		}
		return bytes.TrimRight(b, "\r\n"), nil
	}
}
