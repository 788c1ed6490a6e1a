package events

import (
	"context"
	"sync"
	"time"
)

// Ring keeps the last events. A writer never waits for a reader: one that is
// too slow misses events, and is told how many.
type Ring struct {
	mu    sync.Mutex
	all   []Event       // the event of number n is at n % len(all)
	next  uint64        // the number of the next one
	added chan struct{} // closed when there is another one; nil if nobody waits
}

// NewRing returns a ring of size events.
func NewRing(size int) *Ring { return &Ring{all: make([]Event, size), next: 1} }

// Add numbers events and keeps them.
func (r *Ring) Add(events ...Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		e.Version, e.Seq = Version, r.next
		r.all[r.next%uint64(len(r.all))] = e
		r.next++
	}
	if r.added != nil {
		close(r.added)
		r.added = nil
	}
}

// Reader reads the events of a ring.
type Reader struct {
	ring *Ring
	next uint64
}

// NewReader returns a reader that begins with the last events, at most that
// many.
func (r *Ring) NewReader(last int) *Reader {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(uint64(max(last, 0)), uint64(len(r.all)), r.next-1)
	return &Reader{ring: r, next: r.next - n}
}

// Next appends the next events to a buffer, up to its capacity. An event [Lost]
// takes the place of those that are gone.
func (r *Reader) Next(buf []Event) []Event {
	ring := r.ring
	ring.mu.Lock()
	defer ring.mu.Unlock()
	if oldest := ring.next - min(uint64(len(ring.all)), ring.next-1); r.next < oldest {
		buf = append(buf, Event{
			Version: Version, Seq: oldest - 1, Time: Time{time.Now()}, Event: Lost, Count: int(oldest - r.next),
		})
		r.next = oldest
	}
	for ; r.next < ring.next && len(buf) < cap(buf); r.next++ {
		buf = append(buf, ring.all[r.next%uint64(len(ring.all))])
	}
	return buf
}

// Wait returns when there is an event to read, or false when the context ends.
func (r *Reader) Wait(ctx context.Context) bool {
	r.ring.mu.Lock()
	if r.next < r.ring.next {
		r.ring.mu.Unlock()
		return ctx.Err() == nil
	}
	if r.ring.added == nil {
		r.ring.added = make(chan struct{})
	}
	added := r.ring.added
	r.ring.mu.Unlock()
	select {
	case <-added:
		return true
	case <-ctx.Done():
		return false
	}
}
