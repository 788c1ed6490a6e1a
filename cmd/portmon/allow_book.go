package main

import (
	"net/netip"
	"slices"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/ruleset"
)

// everything is all addresses.
var everything = []netip.Prefix{
	netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
}

// forgetAllowed removes the allowances of prefixes, and of all within them, from
// what is remembered, so that they do not come back.
func (p *cli) forgetAllowed(h *ruleset.Handle, prefixes []netip.Prefix) (had []netip.Prefix, err error) {
	if w, _ := p.runningWatcher(); w != nil {
		defer w.Close()
		return w.Disallowed(prefixes...)
	}
	if p.stateErr != nil {
		return nil, p.stateErr
	}
	report, err := p.lookAtBook(h)
	if err != nil || report.Missing {
		return nil, err
	}
	err = p.changeBook(h, false, func(b *book.Book, _ book.Report) error {
		if had = b.Disallow(prefixes...); !sameTable(report, h) {
			return nil
		}
		// What was allowed as one prefix is several in the kernel if a part of it
		// was allowed for another time: the book is to say what is left.
		b.Disallow(everything...)
		now := book.ReadClock().Boot
		for e, err := range h.Allowed() {
			if err != nil {
				return err
			}
			for _, prefix := range e.Prefixes() {
				if r := e.Record(prefix); r.Allowed { // and has not just knocked
					b.Learn(book.RowOf(&r, now))
				}
			}
		}
		return nil
	})
	return slices.Compact(had), err
}
