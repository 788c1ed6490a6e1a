package replay

import (
	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/machine"
)

const (
	// held is how many packets are held back: a kernel answers long before that.
	held = 1 << 12
	// maxHeaders is what is kept of each: the headers of an ICMP error, and of
	// the packet that it is about.
	maxHeaders = 192
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
	disorder          int // packets before the time of those before
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
	now := p.Time.UnixNano()
	if now < r.now && r.last > 0 {
		r.disorder++
	}
	r.now = max(r.now, now)
	q := r.at(r.last)
	q.now, q.in, q.path, q.verdict = r.now, p.In, p.Path, p.Verdict
	q.length = uint16(copy(q.data[:], p.Data))
	r.last++
	return true
}
