package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/book"
)

// maxEnded is how many bans or allowances that a command ends at once are news
// each.
const maxEnded = 100

// held are news of bans and allowances that have gone, by source, until it is
// certain that no command did it: that tells only when the kernel has done its
// part, of which we hear by ourselves.
type held struct {
	news  map[netip.Prefix]heldNews
	order []holding // some of which are of news that were taken, or replaced
}

type heldNews struct {
	News
	until book.Moment
}

type holding struct {
	source netip.Prefix
	until  book.Moment
}

func newHeld() held { return held{news: make(map[netip.Prefix]heldNews)} }

// take returns the news of a source, which are not held any more.
func (h *held) take(source netip.Prefix) (n News, ok bool) {
	kept, ok := h.news[source]
	delete(h.news, source)
	return kept.News, ok
}

// hold keeps news back for a moment.
func (k *core) hold(n News, now book.Clock) {
	h := &k.held
	if before, ok := h.take(n.Source); ok && before.Kind == Lifted && n.Kind != Lifted {
		k.publish(before) // another one takes its place
	}
	until := now.Boot.Add(settling)
	h.news[n.Source] = heldNews{n, until}
	h.order = append(h.order, holding{n.Source, until})
}

// release publishes what was held until a moment: it was not a command.
func (k *core) release(until book.Moment) {
	for h := &k.held; len(h.order) > 0 && h.order[0].until <= until; {
		next := h.order[0]
		h.order = h.order[1:]
		if h.news[next.source].until != next.until {
			continue // taken, or held again since
		}
		if n, _ := h.take(next.source); n.Kind == Lifted {
			k.publish(n) // nobody is told of allowances that others end
		}
	}
}

// endNews returns the news that the ban or the allowance in a row has ended.
func endNews(kind Kind, r book.Row) News {
	return News{Kind: kind, Source: r.Source, Step: r.Step, Cause: r.Cause, Comment: r.Comment}
}

// ended are the bans or the allowances that a command has ended: a few of them,
// and how many there are.
type ended struct {
	kind  Kind
	of    []netip.Prefix // what the command was called with
	few   []News
	count int
}

func (e *ended) add(r book.Row, now book.Clock) {
	if r.BannedAt(now.Boot) || r.AllowedAt(now.Boot) {
		e.addNews(endNews(e.kind, r))
	}
}

func (e *ended) addNews(n News) {
	if e.count++; len(e.few) < maxEnded {
		n.Kind = e.kind
		e.few = append(e.few, n)
	}
}

// addHeld adds what was known to have gone from a source.
func (e *ended) addHeld(h *held, source netip.Prefix) {
	if (h.news[source].Kind == Lifted) == (e.kind == Unbanned) {
		if n, ok := h.take(source); ok {
			e.addNews(n)
		}
	}
}

func (e *ended) addHeldWithin(h *held) {
	covers := book.Covering(e.of...)
	for source := range h.news {
		if covers(source) {
			e.addHeld(h, source)
		}
	}
}

// publishEnded publishes what a command has ended: if that is a lot, as one.
func (k *core) publishEnded(e *ended) {
	if e.count > maxEnded {
		n := News{Kind: e.kind, Count: e.count}
		if len(e.of) == 1 {
			n.Source = e.of[0].Masked()
		}
		k.publish(n)
		return
	}
	for _, n := range e.few {
		k.publish(n)
	}
}
