package notice

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/text"
)

const (
	// gathering is how long the first event after a quiet time waits for others
	// that belong to it.
	gathering = time.Second
	// farewell is how long sending goes on after the context has ended.
	farewell = 5 * time.Second
)

// plan is what both ways to send have in common.
type plan struct {
	host   string
	window time.Duration
	report func(error)
}

// channel is one way to send notices. Each has events of its own, so that one
// that hangs is not in the way of the other.
type channel struct {
	plan
	send func(context.Context, *notice) error
	wake chan struct{} // has a place for one: events wait

	mu       sync.Mutex // held for no longer than it takes to copy
	waiting  digest
	counters ChannelStats
}

func newChannel(p plan, send func(context.Context, *notice) error) *channel {
	return &channel{plan: p, send: send, wake: make(chan struct{}, 1)}
}

func (c *channel) tell(events []Event) {
	if len(events) == 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = now
		}
		c.waiting.add(e)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take returns a notice of all that waits; there is none if that is nothing.
func (c *channel) take() (n notice, ok bool) {
	c.mu.Lock()
	d := c.waiting
	c.waiting = digest{}
	c.counters.Waiting = d.total
	c.mu.Unlock()
	return d.compose(c.host), d.total > 0
}

// settle counts what has become of the notice that was taken.
func (c *channel) settle(n *notice, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counters.Waiting = 0
	if err == nil {
		c.counters.Sent++
		return
	}
	c.counters.Failed++
	c.counters.Dropped += uint64(n.count)
}

func (c *channel) stats() ChannelStats {
	if c == nil {
		return ChannelStats{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.counters
	s.Waiting += c.waiting.total
	return s
}

func (c *channel) run(ctx context.Context) {
	sending, cancel := lingering(ctx, farewell)
	defer cancel()
	var next time.Time
	for ctx.Err() == nil {
		select {
		case <-c.wake:
			sleep(ctx, max(gathering, time.Until(next)))
		case <-ctx.Done():
		}
		if n, ok := c.take(); ok {
			next = time.Now().Add(c.window)
			c.deliver(ctx, sending, &n)
		}
	}
	// What came while a notice was sent that the end of the context caught on
	// its way.
	if n, ok := c.take(); ok {
		c.deliver(ctx, sending, &n)
	}
}

// deliver sends a notice, if need be again and again until the context ends,
// and then once more.
func (c *channel) deliver(ctx, sending context.Context, n *notice) {
	for try := 1; ; try++ {
		last := ctx.Err() != nil
		err := c.send(sending, n)
		if err == nil {
			c.settle(n, nil)
			return
		}
		var again *tryAgain
		if !errors.As(err, &again) || last || try > len(backoff) {
			c.settle(n, err)
			c.report(fmt.Errorf("%w (try %d, given up: %s not sent)", err, try, text.Plural(n.count, "event")))
			return
		}
		if try == 1 {
			c.report(fmt.Errorf("%w (will be tried again)", err))
		}
		sleep(ctx, again.delay(try))
	}
}

// sleep returns when the time has passed or the context has ended.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// lingering returns a context that ends some time after another does, or when
// it is cancelled.
func lingering(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		sleep(later, d)
		cancel()
	})
	return later, func() {
		stop()
		cancel()
	}
}
