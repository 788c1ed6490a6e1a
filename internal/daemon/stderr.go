package daemon

import (
	"bytes"
	"io"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// maxWaiting is how many lines wait for a standard error that stalls, and
	// maxLine is the most bytes of one. Beyond that they are dropped.
	maxWaiting = 1024
	maxLine    = 4096
	// lastWords is how long the end waits until all lines are written.
	lastWords = time.Second
)

// queue writes lines to a standard error that may stall or lose its reader,
// without delaying the writer. It can be written to from any goroutine.
type queue struct {
	lines   chan []byte
	ending  chan struct{}
	written chan struct{} // closed when nothing is written any more
	dropped atomic.Uint64 // lines
}

// newQueue returns a queue. times is as for a logger.
func newQueue(w io.Writer, times bool) *queue {
	q := &queue{lines: make(chan []byte, maxWaiting), ending: make(chan struct{}), written: make(chan struct{})}
	go q.run(w, newLogger(w, times))
	return q
}

// Write takes a line, and never fails.
func (q *queue) Write(line []byte) (int, error) {
	n := len(line)
	if line = bytes.Clone(line); n > maxLine {
		line = append(bytes.ToValidUTF8(line[:maxLine], nil), '\n')
	}
	select {
	case q.lines <- line:
	default:
		q.dropped.Add(1)
	}
	return n, nil
}

func (q *queue) run(w io.Writer, direct *slog.Logger) {
	defer close(q.written)
	told := uint64(0)
	write := func(line []byte) {
		if _, err := w.Write(line); err != nil {
			q.dropped.Add(1)
		} else if n := q.dropped.Load(); n > told {
			direct.Warn("journal lines dropped", "lines", n-told)
			told = n
		}
	}
	for {
		select {
		case line := <-q.lines:
			write(line)
		case <-q.ending:
			for {
				select {
				case line := <-q.lines:
					write(line)
				default:
					return
				}
			}
		}
	}
}

// close returns when what waits is written, or after a while. What comes later
// is not written.
func (q *queue) close() {
	close(q.ending)
	select {
	case <-q.written:
	case <-time.After(lastWords):
	}
}
