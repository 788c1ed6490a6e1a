package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const (
	// putEvery is the shortest time between two changes of the table, but while
	// there is more than fits one.
	putEvery = 100 * time.Millisecond
	// lookEvery is how often it is looked for what is to be protected, at most.
	lookEvery = 2 * time.Second
	// pullSize is how many bans are asked for at once. The hub may have to keep so
	// many for each host that is slow.
	pullSize = 1024
	// maxKey is how much of a subject is reported that names no source.
	maxKey = 60
)

// ban is what is kept of a ban that the hub tells of.
type ban struct {
	until   time.Time // by the hub's clock
	length  time.Duration
	lifted  bool
	comment string // who has seen the source
}

// left is how long it lasts at a moment of the hub's clock.
func (b *ban) left(hub time.Time) time.Duration {
	if b.lifted {
		return 0
	}
	return min(max(0, b.until.Sub(hub)), wire.MaxLength)
}

// batch is what was told and is not put yet.
type batch struct {
	bans    map[netip.Prefix]ban
	last    uint64 // sequence in the stream
	put     time.Time
	decoded wire.Ban // the last, in memory that is used again
	rest    int      // that are told at the beginning
	done    func()   // to be called when they are put
}

// finish is called when what is told at the beginning is put, or never will be.
func (b *batch) finish() {
	if b.done != nil {
		b.done()
		b.done = nil
	}
}

// errResync is why the stream is followed anew.
var errResync = errors.New("all bans are put anew")

// followBans puts what the hub bans until the context ends.
func (c *Client) followBans(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) {
	for ctx.Err() == nil {
		pause := again
		switch err := c.follow(ctx, nc, js); {
		case err == nil, errors.Is(err, errResync):
			pause = 0
		case errors.Is(err, errPut):
			c.fail(err)
			c.seen.Store(0)
			pause = putAgain
		case nc.IsConnected() && ctx.Err() == nil && !errors.Is(err, nats.ErrDisconnected):
			c.fail(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

var errPut = errors.New("put the bans of the fleet")

// follow reads the stream of bans from where it was left, or from its beginning,
// until something is in the way.
func (c *Client) follow(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) error {
	for !c.knowsClock() || !nc.IsConnected() { // what is left of a ban is not known without
		select {
		case <-ctx.Done():
			return nil
		case <-c.resync:
			c.seen.Store(0)
		case <-time.After(putEvery):
		}
	}
	ask, cancel := context.WithTimeout(ctx, 2*askPatience)
	defer cancel()
	name := c.config.Host
	if err := js.DeleteConsumer(ask, wire.Bans, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("read the bans of the fleet: %w", err)
	}
	if c.seen.Load() == 0 {
		c.forget()
	}
	from := jetstream.ConsumerConfig{
		Name: name, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: 2 * time.Minute,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if seen := c.seen.Load(); seen > 0 {
		from.DeliverPolicy, from.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seen+1
	}
	consumer, err := js.CreateConsumer(ask, wire.Bans, from)
	if err != nil {
		return fmt.Errorf("read the bans of the fleet: %w", err)
	}
	hubs := addrsOf(ctx, c.config.URLs)
	if at, err := netip.ParseAddrPort(nc.ConnectedAddr()); err == nil {
		hubs = append(hubs, at.Addr())
	}
	c.hands.Lock()
	c.hubs, c.lookAt = hubs, time.Time{}
	c.hands.Unlock()
	pending := &batch{bans: make(map[netip.Prefix]ban), last: c.seen.Load(), rest: int(consumer.CachedInfo().NumPending)}
	if pending.rest > nftset.BatchSize && c.config.Hurry != nil {
		pending.done = c.config.Hurry()
		defer pending.finish()
	}
	connection := c.changes.Load()
	for ctx.Err() == nil {
		pull, err := consumer.Fetch(pullSize, jetstream.FetchMaxWait(time.Minute), jetstream.FetchHeartbeat(10*time.Second))
		if err != nil {
			return err
		}
		if err := c.take(ctx, pull.Messages(), pending, func() bool { return c.changes.Load() == connection }); err != nil {
			return err
		}
		if err := pull.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return fmt.Errorf("read the bans of the fleet: %w", err)
		}
	}
	return nil
}

// forget has what is told again count once.
func (c *Client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.peers)
	clear(c.refused.others)
}

func (c *Client) knowsClock() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// take puts what comes until there is no more: what has come within a moment
// together. The rest of a full pull waits for the next one. It ends early if the
// connection is not the same any more.
func (c *Client) take(ctx context.Context, messages <-chan jetstream.Msg, pending *batch, same func() bool) error {
	for n := 0; ; {
		wait := time.Second
		if len(pending.bans) > 0 {
			wait = time.Until(pending.put.Add(putEvery))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.resync:
			timer.Stop()
			c.seen.Store(0)
			return errResync
		case m, ok := <-messages:
			timer.Stop()
			if !ok {
				if len(pending.bans) > 0 && n < pullSize {
					return c.flush(ctx, pending)
				}
				return nil
			}
			n++
			c.note(m, pending)
			if len(pending.bans) == nftset.BatchSize {
				if err := c.flush(ctx, pending); err != nil {
					return err
				}
			}
		case <-timer.C:
			if len(pending.bans) > 0 {
				if err := c.flush(ctx, pending); err != nil {
					return err
				}
			} else if !same() {
				return nats.ErrDisconnected
			}
		}
	}
}

// note adds a message to what is to be put.
func (c *Client) note(m jetstream.Msg, pending *batch) {
	meta, err := m.Metadata()
	if err != nil {
		return
	}
	pending.last = meta.Sequence.Stream
	pending.rest--
	b, key := &pending.decoded, strings.TrimPrefix(m.Subject(), wire.BanPrefix)
	clear(b.By[:cap(b.By)]) // what is left out would be that of another
	*b = wire.Ban{By: b.By[:0]}
	source, err := wire.ParseKey(key)
	if err != nil || wire.Decode(m.Data(), b) != nil || b.Source != source {
		c.skip(noBan, 1, text.Printable(key[:min(len(key), maxKey)]))
		return
	}
	// max_bantime counts from the last offence as well: otherwise each time that a
	// ban is told again would prolong it.
	length := min(time.Duration(b.Length)*time.Second, c.config.MaxBan)
	pending.bans[source] = ban{b.Last.Add(length), length, b.Lifted, comment(b)}
	if !b.Lifted {
		c.countPeers(b.By)
	}
}

// flush puts what waits.
func (c *Client) flush(ctx context.Context, pending *batch) error {
	pending.put = time.Now()
	c.hands.Lock()
	err := c.put(ctx, pending.bans)
	c.hands.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", errPut, err)
	}
	c.seen.Store(pending.last)
	clear(pending.bans)
	if pending.rest <= 0 {
		pending.finish()
	}
	return nil
}

// put makes the table what some bans say. It is called with c.hands held.
func (c *Client) put(ctx context.Context, bans map[netip.Prefix]ban) error {
	if time.Since(c.lookAt) >= lookEvery {
		if err := c.look(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	now := time.Now().Round(0).Add(c.offset)
	c.mu.Unlock()
	var lifted []netip.Prefix
	var records []ruleset.Record
	for source, b := range bans {
		left := min(b.left(now), c.config.MaxBan)
		switch why := c.spared[source]; {
		case b.lifted || left < ruleset.MinBanTime: // it may have been longer before
			lifted = append(lifted, source)
			c.release(source)
		case why != "":
			c.hold(source, b, why, 0)
		default:
			records = append(records, ruleset.Record{Source: source, Timeout: max(b.length, left), Remaining: left, Comment: b.comment})
		}
	}
	if len(lifted) > 0 {
		if err := c.config.Table.LiftFleet(lifted...); err != nil {
			return err
		}
	}
	if len(records) == 0 || ctx.Err() != nil {
		return nil
	}
	errs, full, err := c.config.Table.PutFleet(records)
	if err != nil {
		return err
	}
	for i := range records {
		source := records[i].Source
		if errs == nil || errs[i] == nil {
			c.release(source)
			continue
		}
		why, left := reasonOf(errs[i])
		c.hold(source, bans[source], why, left)
	}
	if full > 0 {
		c.skip(noRoom, full, "some of the last")
	}
	return nil
}

// look finds what is to be protected by now, and lifts bans of what was not before.
func (c *Client) look() error {
	now, err := lookAround(c.hubs)
	if err != nil {
		return err
	}
	var fresh []netip.Prefix
	for source := range now {
		if c.spared[source] == "" && wire.CheckSource(source) == nil {
			fresh = append(fresh, source)
		}
	}
	if len(fresh) > 0 {
		if err := c.config.Table.LiftFleet(fresh...); err != nil {
			return err
		}
	}
	c.spared, c.lookAt = now, time.Now()
	return nil
}

// reasonOf names why a table has refused a ban, and for how long it will, if that
// is known.
func reasonOf(err error) (why string, left time.Duration) {
	var exempt *ruleset.AllowedError
	switch {
	case errors.As(err, new(*ruleset.WhitelistedError)):
		return whitelisted, 0
	case errors.As(err, &exempt):
		return allowed, min(cmp.Or(exempt.Entry.Remaining, holdAllowed), holdAllowed)
	}
	return shared, 0
}

// countPeers notes by whom a ban is.
func (c *Client) countPeers(by []wire.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range by {
		r := &by[i]
		p := c.peers[r.Host]
		if p == nil {
			if len(c.peers) >= maxPeers {
				continue
			}
			p = &Peer{Host: r.Host}
			c.peers[r.Host] = p
		}
		p.Bans++
		if r.At.After(p.Last) {
			p.Last = r.At
		}
	}
}
