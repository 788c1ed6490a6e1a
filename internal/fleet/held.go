package fleet

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/portmon/portmon/ruleset"
)

const (
	// maxHeld bounds the bans that are remembered though they are not in force
	// here. Others are put when the hub tells of them again.
	maxHeld = 4096
	// holdFor is how long a ban is held before it is looked at again, unless it is
	// known when what is in its way ends.
	holdFor = 30 * time.Second
	// holdAllowed is the same of a ban whose source is allowed for longer, which a
	// command that ends that tells.
	holdAllowed = 10 * time.Minute
	// reportEvery is the shortest time between two reports of what is refused, and
	// maxReported how many sources one names.
	reportEvery = 10 * time.Second
	maxReported = 8
	// maxRefusals is how many a status names.
	maxRefusals = 32
)

// Why bans are not in force here, beside what [lookAround] says.
const (
	whitelisted = "whitelisted"
	allowed     = "allowed"
	shared      = "shared network"
	noRoom      = "no room"
	noBan       = "not a ban of one source"
	tooMany     = "more than are remembered"
)

// held is a ban that is not in force here, as something is in its way.
type held struct {
	ban
	why   string
	again time.Time // when it is looked at again; zero: only when told
}

// refusals are the bans that are not in force here.
type refusals struct {
	held    map[netip.Prefix]held
	others  map[string]int      // by reason, those that are not held
	news    map[string][]string // by reason, what to report of them
	unnamed map[string]int      // how many more there are
}

func newRefusals() refusals {
	return refusals{make(map[netip.Prefix]held), make(map[string]int), make(map[string][]string), make(map[string]int)}
}

// add holds a ban.
func (r *refusals) add(source netip.Prefix, h held) {
	before, known := r.held[source]
	if !known && len(r.held) >= maxHeld {
		r.skip(tooMany, 1, source.String())
		return
	}
	if r.held[source] = h; before.why != h.why {
		r.note(h.why, source.String())
	}
}

// skip counts bans that are not held.
func (r *refusals) skip(why string, n int, what string) {
	r.others[why] += n
	r.note(why, what)
}

func (r *refusals) note(why, what string) {
	if len(r.news[why]) < maxReported {
		r.news[why] = append(r.news[why], what)
	} else {
		r.unnamed[why]++
	}
}

// hold notes that a ban is not in force here, and why.
func (c *Client) hold(source netip.Prefix, b ban, why string, left time.Duration) {
	h := held{ban: b, why: why}
	if why != whitelisted { // which the configuration alone changes
		h.again = time.Now().Add(cmp.Or(left, holdFor))
	}
	c.mu.Lock()
	c.refused.add(source, h)
	c.mu.Unlock()
	wake(c.refusing)
}

// release notes that nothing is in the way of a ban, or that it is over.
func (c *Client) release(source netip.Prefix) {
	c.mu.Lock()
	delete(c.refused.held, source)
	c.mu.Unlock()
}

// skip notes that bans are not in force here of which nothing is remembered.
func (c *Client) skip(why string, n int, what string) {
	c.mu.Lock()
	c.refused.skip(why, n, what)
	c.mu.Unlock()
	wake(c.refusing)
}

// Recheck has what was refused be looked at again: what the table exempts may have
// changed.
func (c *Client) Recheck() {
	c.mu.Lock()
	for source, h := range c.refused.held {
		h.again = time.Now()
		c.refused.held[source] = h
	}
	c.mu.Unlock()
	wake(c.refusing)
}

// retry puts bans as soon as nothing is in their way any more, with the hub or
// without, and reports what was refused.
func (c *Client) retry(ctx context.Context) {
	var reported, tried time.Time
	for ctx.Err() == nil {
		due, next := c.due(time.Now())
		if len(due) > 0 && time.Since(tried) >= putEvery {
			tried = time.Now()
			c.hands.Lock()
			err := c.put(ctx, due)
			c.hands.Unlock()
			if err != nil {
				c.fail(errors.Join(errPut, err))
				tried = tried.Add(putAgain)
			}
			continue
		} else if len(due) > 0 {
			next = tried.Add(putEvery)
		}
		switch wait := time.Until(reported.Add(reportEvery)); {
		case !c.hasNews():
		case wait <= 0:
			c.reportRefused()
			reported = time.Now()
		default:
			next = earlier(next, reported.Add(reportEvery))
		}
		wait := time.Hour
		if !next.IsZero() {
			wait = time.Until(next)
		}
		select {
		case <-ctx.Done():
		case <-c.refusing:
		case <-time.After(wait):
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// due returns what is to be looked at now, and when to do so next.
func (c *Client) due(now time.Time) (bans map[netip.Prefix]ban, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	bans = make(map[netip.Prefix]ban)
	hub := now.Round(0).Add(c.offset)
	for source, h := range c.refused.held {
		switch {
		case h.left(hub) < ruleset.MinBanTime:
			delete(c.refused.held, source)
		case h.again.IsZero():
		case h.again.After(now):
			next = earlier(next, h.again)
		default:
			bans[source] = h.ban
		}
	}
	return bans, next
}

func (c *Client) hasNews() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.refused.news) > 0
}

// reportRefused writes what was refused since the last time.
func (c *Client) reportRefused() {
	c.mu.Lock()
	news, unnamed := c.refused.news, c.refused.unnamed
	c.refused.news, c.refused.unnamed = make(map[string][]string), make(map[string]int)
	c.mu.Unlock()
	for _, why := range slices.Sorted(maps.Keys(news)) {
		some := news[why]
		c.config.Warn("the fleet bans what is not banned here", "reason", why, "bans", len(some)+unnamed[why], "sources", strings.Join(some, ", "))
	}
}

// Refusal is a ban of the fleet that is not in force here.
type Refusal struct {
	Source netip.Prefix `json:"source"`
	Reason string       `json:"reason"`
	Seen   string       `json:"seen"` // by whom, and when
}

// list returns how many bans are not in force, by reason, and some of them.
func (r *refusals) list(hub time.Time) (counts map[string]int, some []Refusal) {
	counts = maps.Clone(r.others)
	for source, h := range r.held {
		if h.left(hub) == 0 {
			continue
		}
		counts[h.why]++
		some = append(some, Refusal{source, h.why, h.comment})
	}
	slices.SortFunc(some, func(a, b Refusal) int {
		return cmp.Or(strings.Compare(a.Reason, b.Reason), a.Source.Addr().Compare(b.Source.Addr()))
	})
	return counts, some[:min(len(some), maxRefusals)]
}
