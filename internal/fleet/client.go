package fleet

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/ruleset"
)

// Table is where the bans of the fleet are put: sets of the kernel.
type Table interface {
	// PutFleet puts bans, those of them that are not refused and have room.
	PutFleet(bans []ruleset.Record) (refused []error, full int, err error)
	LiftFleet(sources ...netip.Prefix) error
	// CountFleet returns how many are in force.
	CountFleet() (int, error)
}

// Config says what a [Client] is to do.
type Config struct {
	*Member
	State   string        // the state file: what waits is kept beside it
	MaxBan  time.Duration // no ban is longer; 0 is none at all
	Version string
	Observe func() bool // the table drops nothing
	Table   Table
	// Hurry is called before very many bans are put, and what it returns once they
	// are; nil is as good.
	Hurry func() (done func())
	// Info and Warn report what has changed.
	Info, Warn func(what string, args ...any)
}

const (
	helloEvery = 30 * time.Second
	again      = time.Second     // after which what has failed is tried again
	putAgain   = 5 * time.Second // the same of the table, which may not be there yet
)

// Client takes part in a fleet. Its methods can be called by any goroutine.
type Client struct {
	config  Config
	queue   queue
	change  chan struct{} // connected, or not any more
	changes atomic.Int64  // how often that has been
	resync  chan struct{} // all bans are to be put anew

	refusing chan struct{} // something is refused, or may not be any more
	seen     atomic.Uint64 // the last of the stream that was put; set by the loop that follows it

	hands  sync.Mutex // held while the table changes, and guards what follows
	hubs   []netip.Addr
	spared protected
	lookAt time.Time // when it was found

	mu      sync.Mutex
	status  Status
	peers   map[string]*Peer
	refused refusals
	created time.Time     // the stream
	last    uint64        // its sequence, which only a hub that has lost something is behind
	offset  time.Duration // of the hub's clock, 0 until it is known
	asked   bool          // it is known
	lastID  int64
}

// New returns a client that does nothing until [Client.Run].
func New(config Config) *Client {
	c := &Client{
		config: config, queue: queue{wake: make(chan struct{}, 1)}, change: make(chan struct{}, 1), resync: make(chan struct{}, 1),
		refusing: make(chan struct{}, 1), status: Status{Host: config.Host, Off: config.Off}, peers: make(map[string]*Peer), refused: newRefusals(),
	}
	if err := c.queue.load(config.State); err != nil {
		config.Warn("the sightings of before are lost", "error", err)
	}
	return c
}

// TakesPart reports whether a client made anew would do the same.
func (c *Client) TakesPart(m *Member, state string, maxBan time.Duration) bool {
	return m != nil && reflect.DeepEqual(m, c.config.Member) && state == c.config.State && maxBan == c.config.MaxBan
}

// Share tells the fleet of a source, once the hub can be reached. What a fleet does
// not ban is left out: whatever is no address of the internet, or more than one
// host's.
func (c *Client) Share(s wire.Sighting) (shared bool) {
	s.Sent = s.At
	if _, err := wire.Encode(&s); err != nil {
		return false
	}
	c.mu.Lock()
	c.lastID = max(c.lastID+1, time.Now().UnixNano())
	id := c.config.Host + "-" + strconv.FormatInt(c.lastID, 36)
	c.mu.Unlock()
	c.queue.add(queued{s, id})
	return true
}

// Resync has all bans put anew: the table may have lost some.
func (c *Client) Resync() { wake(c.resync) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run takes part until the context ends.
func (c *Client) Run(ctx context.Context) {
	defer func() {
		if err := c.queue.save(c.config.State); err != nil {
			c.config.Warn("the sightings that wait are lost", "error", err)
		}
	}()
	nc, err := c.config.connect(ctx, forever(func(err error) {
		if ctx.Err() == nil {
			c.onChange(err)
		}
	})...)
	if err != nil { // as of a key that is none: what can mend is tried again
		c.onChange(err)
		<-ctx.Done()
		return
	}
	defer nc.Close()
	var js jetstream.JetStream
	if js, err = jetstream.New(nc); err != nil {
		c.onChange(err)
		return
	}
	nc.Subscribe(wire.TellPrefix+c.config.Host, func(m *nats.Msg) { // made again with each connection
		var tell wire.Tell
		if wire.Decode(m.Data, &tell) == nil {
			c.onStanding(tell.Standing, tell.Reason)
		}
	})
	var parts sync.WaitGroup
	parts.Go(func() { c.greet(ctx, nc) })
	parts.Go(func() { c.publish(ctx, nc, js) })
	if !c.config.Off && c.config.MaxBan > 0 {
		parts.Go(func() { c.followBans(ctx, nc, js) })
		parts.Go(func() { c.retry(ctx) })
	}
	parts.Wait()
}

// onChange notes that there is a connection, or why there is none.
func (c *Client) onChange(err error) {
	c.mu.Lock()
	was, text := c.status.Connected, c.status.Error
	if c.status.Connected = err == nil; err != nil {
		c.status.Error = err.Error()
	} else {
		c.status.Error = ""
		c.last = max(c.last, c.seen.Load()) // the hub may have begun anew
	}
	if was != c.status.Connected {
		c.status.Since = time.Now().UTC().Truncate(time.Second)
	}
	now := c.status.Error
	c.mu.Unlock()
	switch {
	case err == nil && !was:
		c.config.Info("connected to the hub of the fleet", "host", c.config.Host)
	case err != nil && (was || text == "" || text != now):
		c.config.Warn("not connected to the hub of the fleet", "error", err)
	}
	c.changes.Add(1)
	wake(c.change)
}

func (c *Client) onStanding(s wire.Standing, reason string) {
	c.mu.Lock()
	was := c.status.Standing
	c.status.Standing, c.status.Reason = s, reason
	c.mu.Unlock()
	switch {
	case s == was:
	case s == wire.Member && was != "":
		c.config.Info("the fleet counts what this host says again")
	case s != wire.Member:
		c.config.Warn("the fleet does not count what this host says", "standing", s, "reason", cmp.Or(reason, "none given"))
	}
}

// greet says hello every now and then, and at once when there is a connection.
func (c *Client) greet(ctx context.Context, nc *nats.Conn) {
	for ctx.Err() == nil {
		next := helloEvery
		if nc.IsConnected() {
			if err := c.greetOnce(ctx, nc); err != nil {
				c.fail(err)
				next = again
			}
		}
		select {
		case <-ctx.Done():
		case <-c.change:
		case <-time.After(next):
		}
	}
}

func (c *Client) greetOnce(ctx context.Context, nc *nats.Conn) error {
	held, err := c.config.Table.CountFleet()
	if err != nil {
		held = 0 // there is no table
	}
	waiting, dropped := c.queue.length()
	begun := time.Now()
	answer, err := hello(ctx, nc, c.config.Host, &wire.Hello{
		Version: c.config.Version, Observe: c.config.Observe(), Off: c.config.Off, Bans: held, Queued: waiting, Dropped: dropped,
	})
	if err != nil {
		return fmt.Errorf("ask the hub of the fleet: %w", err)
	}
	c.onStanding(answer.Standing, answer.Reason)
	c.mu.Lock()
	c.offset, c.asked = answer.Now.Sub(begun.Add(time.Since(begun)/2).Round(0)), true
	c.checkStream(&answer)
	c.status.Hosts, c.status.Quorum, c.status.Error = answer.Hosts, answer.Quorum, ""
	c.status.Heard = time.Now().UTC().Truncate(time.Second)
	c.mu.Unlock()
	return nil
}

// checkStream has all bans put anew if the stream is another one, or has lost its
// end: its sequences are given out again then, and to go on from the last that was
// seen would miss what they say. It is called with c.mu held.
func (c *Client) checkStream(answer *wire.Answer) {
	if !c.created.IsZero() && (!c.created.Equal(answer.Created) || answer.Last < c.last) {
		c.Resync()
	}
	c.created, c.last = answer.Created, answer.Last
}

// fail notes what has failed, and reports it if that is news.
func (c *Client) fail(err error) {
	c.mu.Lock()
	news := c.status.Error != err.Error()
	c.status.Error = err.Error()
	c.mu.Unlock()
	if news {
		c.config.Warn("the fleet", "error", err)
	}
}

// publish sends what waits, one after the other, and keeps each until the hub's
// server has stored it.
func (c *Client) publish(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) {
	for ctx.Err() == nil {
		s, ok := c.queue.first()
		if !ok {
			select {
			case <-ctx.Done():
			case <-c.queue.wake:
			}
			continue
		}
		s.Sent = time.Now()
		data, err := wire.Encode(&s.Sighting)
		if err != nil { // it has become too old
			c.queue.done(s.ID, false)
			continue
		}
		if nc.IsConnected() {
			send, cancel := context.WithTimeout(ctx, askPatience)
			_, err = js.Publish(send, wire.SightingPrefix+c.config.Host, data, jetstream.WithMsgID(s.ID))
			cancel()
			if err == nil {
				c.queue.done(s.ID, true)
				c.mu.Lock()
				c.status.Shared++
				c.mu.Unlock()
				continue
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// Status returns how the host fares in the fleet.
func (c *Client) Status() Status {
	held, _ := c.config.Table.CountFleet()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Bans = held
	s.Refused, s.Refusals = c.refused.list(time.Now().Round(0).Add(c.offset))
	s.Queued, s.Dropped = c.queue.length()
	s.Peers = sortedPeers(c.peers)
	return s
}
