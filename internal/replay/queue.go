package replay

import (
	"math"
	"time"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/machine"
)

const (
	// held is how many packets are held back. A kernel answers long before that.
	held = 1 << 12
	// maxHeaders is how many bytes of each are kept: enough for the headers of an
	// ICMP error and of the packet that it is about.
	maxHeaders = 192
	// maxStray is how many packets in a row may have a wrong time. If there are
	// more, the clock has been set.
	maxStray = 16
	// maxShift keeps times within the range of nanoseconds.
	maxShift = int64(100 * 365 * 24 * time.Hour)
)

// queued is a packet that waits until its answer has been seen.
type queued struct {
	now      int64
	in       string
	path     capture.Path
	accepted bool
	length   uint16
	data     [maxHeaders]byte
}

func (q *queued) bytes() []byte { return q.data[:q.length] }

// queue is a ring of packets, numbered from the first packet on.
type queue struct {
	ring              [held]queued
	next, ahead, last int // to be evaluated, to be learned from, to be filled
	packet            machine.Packet
	now               int64
	shift             int64 // how far the clock has been set back so far
	disorder          int   // packets that are earlier than the one before them
}

func (r *queue) at(i int) *queued { return &r.ring[i%held] }
func (r *queue) len() int         { return r.last - r.next }
func (r *queue) first() *queued   { return r.at(r.next) }

func (r *queue) drop() {
	r.next++
	r.ahead = max(r.ahead, r.next)
}

// add returns false if there is no room. Time never goes back.
func (r *queue) add(p *capture.Packet) bool {
	if r.len() == held {
		return false
	}
	now := min(p.Time.UnixNano(), math.MaxInt64-r.shift) + r.shift
	if now < r.now && r.last > 0 {
		r.disorder++
		if r.now-now > int64(capture.MaxDisorder) {
			r.goBack(now)
		}
	}
	r.now = max(r.now, now)
	q := r.at(r.last)
	q.now, q.in, q.path, q.accepted = r.now, p.In, p.Path, p.Accepted
	q.length = uint16(copy(q.data[:], p.Data))
	r.last++
	return true
}

// goBack handles a long step back in time. If only a few packets were ahead,
// their times were wrong, and become that of the packet behind them. If they
// were many, the clock was set, and time goes on from where it is.
func (r *queue) goBack(now int64) {
	first := r.last
	for first > r.next && first >= r.last-maxStray && r.at(first-1).now > now {
		first--
	}
	switch back := r.now - now; {
	case first >= r.last-maxStray && (first == 0 || r.at(first-1).now <= now):
		for i := first; i < r.last; i++ {
			r.at(i).now = now
		}
		r.now = now
	case back <= maxShift-r.shift:
		r.shift += back
	}
}
