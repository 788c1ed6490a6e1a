package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/portmon/portmon/cmd/portmon-hub/judge"
	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
)

// hub is the daemon. All it knows, but for what is only shown, it has read from
// the streams, and can read again.
type hub struct {
	*ui
	config *config
	fleet  *fleet
	broker *broker // nil if the server is not in this program
	judge  *judge.Judge
	ready  bool // has read what was there at the start, so that it speaks

	// Decisions could not be published, or another hub was just doing it. With
	// the same ID they are stored once.
	retry  chan judge.Decision
	unsent map[netip.Prefix]judge.Decision
	lost   atomic.Bool // there were too many of them, so that it must reconcile

	mu     sync.Mutex // what the page and the metrics show
	hosts  map[string]*known
	bans   map[netip.Prefix]wire.Ban // what the stream has
	last   uint64                    // sequence in it
	counts map[string]int            // sightings by what became of them
	recent []int                     // sightings of the last minute, by second
	start  time.Time
	create time.Time // of the stream of bans
}

// known is what a hub knows of a host.
type known struct {
	record
	hello wire.Hello
	heard time.Time
	said  int // sightings
	// rekeyed is when it had another key last: each is stored and logged.
	rekeyed time.Time
}

// Results of sightings, beside those of the judge.
const (
	counted   = "counted"
	malformed = "malformed"
)

func newHub(p *cli, c *config, f *fleet, b *broker) *hub {
	return &hub{
		ui: &p.ui, config: c, fleet: f, broker: b, judge: judge.New(c.judge), retry: make(chan judge.Decision, 1<<14),
		hosts: make(map[string]*known), bans: make(map[netip.Prefix]wire.Ban), unsent: make(map[netip.Prefix]judge.Decision),
		counts: make(map[string]int), recent: make([]int, 60), start: time.Now(),
	}
}

// run reads the streams and answers hosts until ctx ends. It calls ready when it
// has caught up.
func (h *hub) run(ctx context.Context, ready func()) error {
	hosts, there, stop, err := h.fleet.follow(ctx, wire.Hosts, jetstream.DeliverLastPerSubjectPolicy)
	if err != nil {
		return err
	}
	defer stop()
	if err := drain(ctx, hosts, there, h.onHost); err != nil {
		return err
	}
	if len(h.hosts) == 0 {
		h.note("no host is known: invite them, anew if the store was lost")
	}
	bans, there, stop, err := h.fleet.follow(ctx, wire.Bans, jetstream.DeliverLastPerSubjectPolicy)
	if err != nil {
		return err
	}
	defer stop()
	if err := drain(ctx, bans, there, h.onBan); err != nil {
		return err
	}
	sightings, there, stop, err := h.fleet.follow(ctx, wire.Sightings, jetstream.DeliverAllPolicy)
	if err != nil {
		return err
	}
	defer stop()
	if err := drain(ctx, sightings, there, h.onSighting); err != nil {
		return err
	}
	if err := h.refresh(ctx); err != nil {
		return err
	}
	h.ready = true
	h.reconcile()

	hellos, joins := make(chan *nats.Msg, 1<<14), make(chan *nats.Msg, 1<<14)
	asked := make(chan *nats.Msg, 16)
	for subject, ch := range map[string]chan *nats.Msg{wire.HelloPrefix + "*": hellos, wire.JoinPrefix + "*": joins, askSubject: asked} {
		queue := "" // each hub wants to know who is there
		if ch == joins {
			queue = "hubs"
		}
		if _, err := h.fleet.nc.ChanQueueSubscribe(subject, queue, ch); err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
	}
	if err := h.fleet.nc.FlushTimeout(5 * time.Second); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if h.broker != nil {
		if err := h.broker.listen(); err != nil {
			return err
		}
	}
	ready()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; {
		select { // who may speak comes before what is said
		case m := <-hosts:
			h.onHost(m)
			continue
		default:
		}
		select {
		case m := <-hosts:
			h.onHost(m)
		case m := <-sightings:
			h.onSighting(m)
		case m := <-bans:
			h.onBan(m)
		case m := <-hellos:
			h.onHello(m)
		case m := <-joins:
			h.onJoin(ctx, m)
		case m := <-asked:
			h.answerAsk(m)
		case d := <-h.retry:
			was := &d.Ban
			if now, ok := h.judge.Decided(was.Source); ok && (now.Step != was.Step || now.Lifted != was.Lifted || !now.Last.Equal(was.Last)) {
				d = judge.Decision{Ban: now}
			}
			h.unsent[was.Source] = d
		case <-tick.C:
			if n++; n%30 == 0 {
				if err := h.refresh(ctx); err != nil && ctx.Err() == nil {
					h.note("%s", err)
				}
			}
			h.onTick()
		case <-ctx.Done():
			return nil
		}
	}
}

// refresh reads what the server says of the stream of bans, and the time.
func (h *hub) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := h.fleet.js.Stream(ctx, wire.Bans)
	if err != nil {
		return fmt.Errorf("ask for the stream %s: %w", wire.Bans, err)
	}
	info := stream.CachedInfo()
	h.fleet.skew.Store(int64(time.Until(info.TimeStamp)))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.create, h.last = info.Created, max(h.last, info.State.LastSeq)
	return nil
}

// onTick publishes again what could not be, and forgets bans that are over.
func (h *hub) onTick() {
	now := h.fleet.now()
	h.mu.Lock()
	for p, b := range h.bans {
		if !b.Until().After(now) {
			delete(h.bans, p)
		}
	}
	copy(h.recent, h.recent[1:])
	h.recent[len(h.recent)-1] = 0
	h.mu.Unlock()
	if h.broker != nil {
		h.broker.limit()
	}
	if len(h.unsent) == 0 && len(h.retry) == 0 && h.lost.CompareAndSwap(true, false) {
		h.reconcile()
	}
	for p, d := range h.unsent {
		delete(h.unsent, p)
		h.publish([]judge.Decision{d})
	}
}

// publish stores decisions for hosts to read. What cannot be stored is tried
// again.
func (h *hub) publish(decisions []judge.Decision) {
	if !h.ready {
		return // what came of them is compared with the stream later
	}
	for _, d := range decisions {
		if !d.Ban.Lifted && d.Ban.Left(h.fleet.now()) == 0 {
			continue
		}
		h.fleet.publish(d, wire.MaxLength, func(err error) {
			if err == nil {
				return
			}
			select {
			case h.retry <- d:
			default:
				h.lost.Store(true)
			}
		})
	}
}

// reconcile has the stream say what the judge does, as an earlier run may have
// ended between the two, or too many decisions could not be published. What the
// stream has and the judge does not know stays, as sightings go sooner than some
// bans; unless it rests on hosts that do not count any more, or is never to be
// banned.
func (h *hub) reconcile() {
	now := h.fleet.now()
	mine := h.judge.Bans(now)
	quorum := h.judge.QuorumOf(h.judge.Size(now))
	var decisions []judge.Decision
	for p, ban := range mine {
		if known, ok := h.bans[p]; !ok || known.Lifted || known.Step < ban.Step || ban.Until().Sub(known.Until()) > time.Duration(ban.Length)*time.Second/8 {
			decisions = append(decisions, judge.Decision{Ban: ban})
		}
	}
	for p, ban := range h.bans {
		if ban.Lifted {
			continue
		}
		bad := 0
		for _, r := range ban.By {
			if k := h.hosts[r.Host]; k == nil || k.Standing != wire.Member || r.At.Before(k.From) {
				bad++
			}
		}
		rest, ok := mine[p]
		_, decided := h.judge.Decided(p)
		switch {
		case ok && bad > 0 && ban.Until().After(rest.Until()):
			decisions = append(decisions, judge.Decision{Ban: rest})
		case ok:
		case h.judge.NeverBanned(p) || bad > 0 && (decided || ban.Hosts-bad < quorum):
			ban.Lifted = true
			decisions = append(decisions, judge.Decision{Ban: ban})
		}
	}
	h.publish(decisions)
}

func (h *hub) onHost(m jetstream.Msg) {
	name, r, err := decodeHost(m)
	if err != nil {
		h.note("a record of a host is not good: %s", err)
		return
	}
	h.setHost(name, r)
}

// setHost takes note of a host, if it is news.
func (h *hub) setHost(name string, r record) {
	h.mu.Lock()
	k := h.hosts[name]
	if k == nil {
		k = new(known)
		h.hosts[name] = k
	}
	before := k.record
	if r.revision <= before.revision {
		h.mu.Unlock()
		return
	}
	k.record = r
	h.mu.Unlock()
	outcome := h.judge.SetHost(name, &r.Host)
	if h.ready && before.Standing != "" && before.Standing != r.Standing && before.Standing != wire.Invited {
		h.note("host %s is %s", name, text.Join(": ", string(r.Standing), r.Reason))
		h.tell(name, &wire.Tell{Standing: r.Standing, Reason: r.Reason})
	}
	if h.broker != nil {
		h.broker.setHost(name, &r.Host)
	}
	h.publish(outcome.Decisions)
}

func (h *hub) tell(name string, t *wire.Tell) {
	data, err := wire.Encode(t)
	if err == nil {
		err = h.fleet.nc.Publish(wire.TellPrefix+name, data)
	}
	if err != nil {
		h.note("tell %s its standing: %s", name, err)
	}
}

func (h *hub) onSighting(m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		return
	}
	var s wire.Sighting
	name, err := wire.HostOf(wire.SightingPrefix, m.Subject())
	if err == nil {
		err = wire.Decode(m.Data(), &s)
	}
	if err != nil {
		h.count(name, malformed)
		return
	}
	outcome := h.judge.Sighting(name, &s, meta.Timestamp, meta.Sequence.Stream)
	if outcome.Ignored == "" {
		outcome.Ignored = counted
	}
	h.count(name, outcome.Ignored)
	h.publish(outcome.Decisions)
	if outcome.Quarantine != "" {
		h.quarantine(name, outcome.Quarantine)
	}
}

func (h *hub) count(name, result string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[result]++
	if !h.ready {
		return
	}
	h.recent[len(h.recent)-1]++
	if k := h.hosts[name]; k != nil {
		k.said++
	}
}

// quarantine stores that a host is quarantined. Of several hubs, which all find
// it out, the first does.
func (h *hub) quarantine(name, reason string) {
	r := h.hosts[name].record
	r.Standing, r.Since, r.Reason = wire.Quarantined, h.fleet.now().UTC(), reason
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := h.fleet.setHost(ctx, name, r)
	if err != nil {
		h.note("quarantine %s: %s", name, err) // the judge has done it all the same
		return
	}
	h.setHost(name, r)
}

func (h *hub) onBan(m jetstream.Msg) {
	var b wire.Ban
	meta, err := m.Metadata()
	if err == nil {
		err = wire.Decode(m.Data(), &b)
	}
	if err != nil {
		h.note("a ban in the stream is not good: %s", err)
		return
	}
	h.mu.Lock()
	h.last = max(h.last, meta.Sequence.Stream)
	h.bans[b.Source] = b
	h.mu.Unlock()
	switch forgiven := h.judge.Forgiven(b.Source); {
	case b.Forgiven.After(forgiven):
		h.judge.Forgive(b.Source, b.Forgiven)
	case forgiven.After(b.Forgiven) && !b.Lifted: // decided before that was known
		b.Lifted, b.Forgiven = true, forgiven
		h.publish([]judge.Decision{{Ban: b}})
	}
}

// asking returns the host that asks, if it wants its answer where it gets any:
// anywhere else, we would say in our name what it cannot say itself.
func asking(prefix string, m *nats.Msg) (string, bool) {
	name, err := wire.HostOf(prefix, m.Subject)
	return name, err == nil && strings.HasPrefix(m.Reply, wire.InboxPrefix(name)+".")
}

func (h *hub) onHello(m *nats.Msg) {
	var hello wire.Hello
	name, ok := asking(wire.HelloPrefix, m)
	if !ok || wire.Decode(m.Data, &hello) != nil {
		return
	}
	now := h.fleet.now()
	h.mu.Lock()
	k := h.hosts[name]
	if k == nil {
		h.mu.Unlock()
		return
	}
	k.hello, k.heard = hello, now
	size := h.judge.Size(now)
	answer := &wire.Answer{
		Now: now.UTC(), Hosts: size, Quorum: h.judge.QuorumOf(size), Standing: k.Standing, Reason: k.Reason, Created: h.create.UTC(), Last: h.last,
	}
	h.mu.Unlock()
	h.respond(m, answer)
}

func (h *hub) respond(m *nats.Msg, answer wire.Message) {
	data, err := wire.Encode(answer)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		h.note("answer on %s: %s", m.Subject, err)
	}
}

// onJoin has a host be known by another key: its own in place of that of its
// token, or a new one.
func (h *hub) onJoin(ctx context.Context, m *nats.Msg) {
	var join wire.Join
	name, ok := asking(wire.JoinPrefix, m)
	if !ok || wire.Decode(m.Data, &join) != nil || h.hosts[name] == nil {
		return
	}
	k := h.hosts[name]
	r := k.record
	now := h.fleet.now().UTC()
	refuse := func(why string) { h.respond(m, &wire.Joined{Error: why}) }
	invited := r.Standing == wire.Invited
	switch {
	case r.Standing == wire.Revoked, invited && now.After(r.Expires):
		refuse("the invitation has expired: ask for another one")
		return
	case h.broker != nil && h.keyTaken(name, join.Key):
		refuse("another host has this key: make a new one")
		return
	case !invited && (h.broker == nil || r.Key == join.Key): // its answer was lost
		h.respond(m, &wire.Joined{Kept: h.broker == nil})
		return
	case !invited && now.Sub(k.rekeyed) < time.Minute:
		refuse("it had a new key less than a minute ago: try again")
		return
	case invited:
		r.Host = wire.Host{Key: r.Key, Standing: wire.Member, Since: now, From: now}
	default:
		k.rekeyed = now
	}
	if h.broker != nil {
		r.Key = join.Key
	}
	r, err := h.fleet.setHost(ctx, name, r)
	if err != nil {
		h.note("%s", err)
		refuse("the hub cannot store it: try again")
		return
	}
	h.note("host %s has joined, or has a new key", name)
	h.setHost(name, r)
	h.respond(m, &wire.Joined{Kept: h.broker == nil})
}

// keyTaken reports whether a key is the hub's or of a host other than name, as
// whom the server would let in who has it.
func (h *hub) keyTaken(name, key string) bool {
	for other, k := range h.hosts {
		if other != name && k.Key == key {
			return true
		}
	}
	return key == h.broker.hub
}
