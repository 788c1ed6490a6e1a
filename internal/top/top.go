// Package top is what `portmon top` shows: the state of a screen, how keys and
// reports change it, and how it looks. It has no socket and no clock: what it
// shows is sent to it, and what it is asked to do it passes on.
package top

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
)

// Options are what does not change while the screen is shown. Foreign text must
// be printable, here and in all messages.
type Options struct {
	Host string
	// Colour allows colours, and Unicode characters that are not ASCII.
	Colour, Unicode bool
	// Do runs a command of portmon on a source, "why", "ban", "unban" or "allow",
	// and returns what it printed.
	Do func(command string, source netip.Prefix) Result
	// Zone is where times are shown.
	Zone *time.Location
}

// Snapshot is the table at a moment.
type Snapshot struct {
	Time time.Time
	// State is "enforcing" and the like; Good is whether all is well, and
	// Observing whether nothing is dropped that is counted as dropped.
	State           string
	Good, Observing bool
	Sets            []Set
	// Dropped counts packets.
	Dropped uint64
}

// Set is how full a set is. One without a Size has no limit.
type Set struct {
	Name        string
	Count, Size int
}

// Batch is what happened since the last one.
type Batch []events.Event

// Source is where events come from: "the watcher", "the log", or nothing.
type Source string

// Bans are the longest bans, the longest first, out of Total.
type Bans struct {
	Longest []Ban
	Total   int
	// New are some that were made since the last time.
	New []events.Event
}

// Ban is a ban. Until is zero if it does not end, and Since if that is not known.
type Ban struct {
	Prefix       netip.Prefix
	Tier         int
	Cause        string
	Since, Until time.Time
	Remark       string
	Place        geo.Place
}

// Trouble is what is wrong at the moment; "" is nothing.
type Trouble string

// Result is what a command has printed.
type Result struct {
	Title string
	Text  string
}

const (
	maxEvents  = 1000 // that can be scrolled back to
	maxSamples = 400  // of the graph
	maxFilter  = 100  // characters
)

// line is a line of a list.
type line struct {
	id     uint64 // of the event
	prefix netip.Prefix
	cells  []string
	style  string
}

func eventLine(e *events.Event, zone *time.Location) line {
	at := e.Time.In(zone).Format(time.TimeOnly)
	if !e.Prefix.IsValid() {
		return line{id: e.Seq, cells: []string{at, e.Message()}, style: yellow}
	}
	l := line{id: e.Seq, prefix: e.Prefix, cells: []string{
		at, text.Prefix(e.Prefix), short(e.Event), e.Cause, text.NamedPort(e.Protocol, e.Port), tier(e.Tier), text.Join(", ", e.Place.String(), e.Reason),
	}}
	if e.Tier > 1 {
		l.style = red
	}
	return l
}

func (b *Ban) line(now time.Time) line {
	age, left := "-", "forever"
	if !b.Since.IsZero() {
		age = text.ShortDuration(now.Sub(b.Since))
	}
	if !b.Until.IsZero() {
		left = text.ShortDuration(max(0, b.Until.Sub(now)))
	}
	return line{prefix: b.Prefix, cells: []string{left, text.Prefix(b.Prefix), age, b.Cause, tier(b.Tier), text.Join(", ", b.Place.String(), b.Remark)}}
}
