package main

import (
	"unicode/utf8"
)

// rowLayout is how wide the columns of a list are.
type rowLayout struct {
	address int
	columns int  // of the whole row; 0 is any number
	reasons bool // whether there are any
}

// Columns whose contents are known.
const (
	tierColumn = len("prefix")
	timeColumn = len("3649d23h") // the longest there is
	gap        = "  "
)

// unsortedAddress is the width of addresses where it must be chosen before they are known: that of the longest /64.
const unsortedAddress = len("ffff:ffff:ffff:ffff::/64")

// heading returns the first line of a list.
func (l rowLayout) heading() string {
	reason := ""
	if l.reasons {
		reason = "REASON"
	}
	return string(l.appendRow(nil, "ADDRESS", "TIER", "AGE", "LEFT", reason))
}

// appendEntry writes the line of an entry, without the end of the line.
func (l rowLayout) appendEntry(b []byte, e *entry) []byte {
	age, left := "-", "forever"
	if d, ok := e.age(); ok {
		age = short(d)
	}
	if e.expires > 0 {
		left = short(e.expires)
	}
	return l.appendRow(b, shortPrefix(e.prefix), e.tierName(), age, left, printable(e.cause()))
}

func (l rowLayout) appendRow(b []byte, address, tier, age, left, reason string) []byte {
	start := len(b)
	b = append(appendPadded(b, address, l.address), gap...)
	b = append(appendPadded(b, tier, tierColumn), gap...)
	b = append(appendPadded(b, age, timeColumn), gap...)
	if reason == "" {
		return append(b, left...)
	}
	b = append(appendPadded(b, left, timeColumn), gap...)
	if l.columns > 0 {
		reason = shorten(reason, l.columns-utf8.RuneCount(b[start:]))
	}
	return append(b, reason...)
}

// shorten cuts s down to a number of columns.
func shorten(s string, columns int) string {
	if utf8.RuneCountInString(s) <= columns {
		return s
	}
	runes := []rune(s)
	return string(runes[:max(columns-1, 0)]) + "…"
}
