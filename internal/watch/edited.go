package watch

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// edited takes in what another program did to an element of a tier. A ban is no offence, and lifting one clears the count: the
// source starts again at the first tier.
func (k *core) edited(p place, ev nftset.Event, now ledger.Now) {
	if ev.Kind == nftset.ElementDeleted {
		h, _ := k.mir.get(p.set, p.key)
		k.lifted(p, h, now)
		return
	}
	h := k.heldOf(p.set, ev.Element, now)
	h.byHand = true
	have, known := k.mir.get(p.set, p.key)
	k.drop(p.set, p.key) // somebody else has the last word on what we were about to add
	k.mir.put(p.set, p.key, h)
	if known && have.close(h) {
		h.byHand = have.byHand
		k.mir.put(p.set, p.key, h)
		return // put back by somebody who remembers it as we do
	}
	src, tier, _ := k.sourceOf(p)
	if reason, ok := offence(tier, h.comment); ok && tier == 1 && h.timeout > 0 {
		k.offended(src, p.set, h, reason, now)
		return
	}
	if h.timeout > 0 {
		k.led.BannedByHand(h.ban(src, tier), now.Mono)
	}
	k.tell(News{Kind: ByHand, Source: src, Set: p.set, Tier: tier, Until: h.until, Forever: h.timeout == 0, Reason: h.comment})
}

// offence reports whether a ban in a tier that has this comment is for an offence, and for which.
func offence(tier int, comment string) (reason string, ok bool) {
	reason, ok = ruleset.Offence(comment)
	return reason, ok && tier > 0
}

// offended takes in that a program banned a source for what it has seen it do.
func (k *core) offended(src netip.Prefix, set string, h held, reason string, now ledger.Now) {
	h.byHand = false
	k.mir.put(set, keyOf(src), h)
	v := k.led.Offend(ledger.Offence{Source: src, At: h.until.Add(-h.timeout)}, now.Mono)
	if !v.Counted {
		return
	}
	k.tell(News{Kind: Banned, Source: src, Set: set, Tier: 1, Offences: v.Offences, Until: h.until, Reason: reason})
	k.escalate(src, v, now)
}

// lifted takes in that somebody else lifted a ban. It may be one that was never heard of, the zero held: the log
// message can come later.
func (k *core) lifted(p place, h held, now ledger.Now) {
	k.drop(p.set, p.key)
	src, tier, ok := k.sourceOf(p)
	if ok && tier > 0 {
		k.led.Unbanned(src, now.Mono, now.Mono)
	}
	k.tell(News{Kind: Lifted, Source: src, Set: p.set, Tier: tier, Reason: h.comment})
}

// sourceOf returns what an element of a set bans; ok is false if it is a range that is no prefix.
func (k *core) sourceOf(p place) (src netip.Prefix, tier int, ok bool) {
	if tier, _ = ruleset.Tier(p.set); tier > 0 {
		return k.source(p.key.From.Addr()), tier, true
	}
	src, ok = p.key.Prefix()
	return src, 0, ok
}

// heldOf returns the ban that an element is.
func (k *core) heldOf(set string, el nftset.Element, now ledger.Now) held {
	h := held{timeout: el.Timeout, comment: el.Comment, round: k.round}
	if h.timeout == 0 && (el.Expires > 0 || isTier(set)) {
		h.timeout = max(k.defaultTimeout(set), el.Expires)
	}
	left := el.Expires
	if left == 0 {
		left = h.timeout
	}
	h.until = now.Mono.Add(left)
	return h
}

// defaultTimeout is what an element gets that brings no timeout of its own.
func (k *core) defaultTimeout(set string) time.Duration {
	if tier, _ := ruleset.Tier(set); tier >= 1 && tier <= len(k.spec.BanTime) {
		return k.spec.BanTime[tier-1]
	}
	return 0
}

// ban returns what the ledger is told of a ban in a tier.
func (h held) ban(src netip.Prefix, tier int) ledger.Ban {
	return ledger.Ban{Source: src, Tier: tier, From: h.until.Add(-h.timeout), Until: h.until}
}
