// Package top is the screen of `portmon top`: its state, how keys and messages
// change that, and how it looks. It has no socket and no clock: what it shows
// is sent to it, and it passes commands on.
package top

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
)

// Options do not change while the screen is shown. Foreign text must be
// printable, here and in all messages.
type Options struct {
	Host string
	// Colour allows colours, and Unicode allows characters that are not ASCII.
	Colour, Unicode bool
	// Do runs one of portmon's commands on a source, "why", "ban", "unban" or
	// "allow", and returns its output.
	Do func(command string, source netip.Prefix) Result
	// AllowFor is how long "allow" allows a source.
	AllowFor time.Duration
	// MaySuspend reports that a shell waits, to go on with something else.
	MaySuspend bool
	// Zone is where times are shown.
	Zone *time.Location
}

// Snapshot is the table at one moment.
type Snapshot struct {
	Time time.Time
	// State is "enforcing" and the like. Good reports that all is well, and
	// Observing that what is counted as dropped is not dropped.
	State           string
	Good, Observing bool
	Sets            []Set
	// Dropped counts packets.
	Dropped uint64
	// BanFor is how long "ban" bans a source.
	BanFor time.Duration
}

// Set is how full a set is. A set without a Size has no limit.
type Set struct {
	Name        string
	Count, Size int
}

// Batch is the events since the last batch.
type Batch []events.Event

// Source is where events come from: [Watcher], [LogGroup], or "".
type Source string

const (
	Watcher  Source = "the watcher"
	LogGroup Source = "the log group"
)

// Bans are the longest bans at a moment, the longest first, out of Total.
type Bans struct {
	Time    time.Time
	Longest []Ban
	Total   int
	// New are some of the bans that were made since the last message.
	New []events.Event
}

// Ban is a ban. Until is zero if it does not end, and Since is if it is not
// known.
type Ban struct {
	Prefix       netip.Prefix
	Tier         int
	Cause        string
	Since, Until time.Time
	Remark       string
	Place        geo.Place
}

// Trouble is what is wrong at present, "" if nothing is.
type Trouble string

// Result is the output of a command.
type Result struct {
	Title string
	Text  string
}

const (
	maxEvents  = 1000 // that can be scrolled to
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
