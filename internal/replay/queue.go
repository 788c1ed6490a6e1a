package replay

import (
	"math"
	"time"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/machine"
)

const (
	// held is how many packets are held back: a kernel answers long before that.
	held = 1 << 12
	// maxHeaders is what is kept of each: the headers of an ICMP error, and of
	// the packet that it is about.
	maxHeaders = 192
	// maxStray is how many packets in a row may be taken for some whose time is
	// wrong. Before more of them, the clock has been set.
	maxStray = 16
	// maxShift keeps times within what nanoseconds can count.
	maxShift = int64(100 * 365 * 24 * time.Hour)
)

// queued is a packet that waits until its answer was seen.
type queued struct {
	now     int64
	in      string
	path    capture.Path
	verdict capture.Verdict
	length  uint16
	data    [maxHeaders]byte
}

func (q *queued) bytes() []byte { return q.data[:q.length] }

// queue is a ring of packets. Its places are counted from the first packet on.
type queue struct {
	ring              [held]queued
	next, ahead, last int // to be looked at, to be learnt from, to be filled
	packet            machine.Packet
	now               int64
	shift             int64 // how far the clock was set back so far
	disorder          int   // packets before the time of those before
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
	q.now, q.in, q.path, q.verdict = r.now, p.In, p.Path, p.Verdict
	q.length = uint16(copy(q.data[:], p.Data))
	r.last++
	return true
}

// goBack deals with time that goes back by far. A few packets before have come
// from the future: they are taken back from there. Behind more of them, time goes
// on from where it is.
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
