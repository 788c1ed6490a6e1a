// Package events has what `portmon watch` reports in a form for programs: one
// object for each event, kept in a bounded [Ring] for readers, and written as
// portmon's own JSON, as ECS (Elastic Common Schema) or as CEF (Common Event
// Format).
package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// Version is the version of the format. It changes when the name, type or unit
// of a field changes.
const Version = 1

// Event is something that happened. Unknown fields are left out. Foreign text
// in it is printable.
type Event struct {
	Version int `json:"version"`
	// Seq numbers the events of a watcher from 1.
	Seq uint64 `json:"seq"`
	// Time is when the watcher learned of it.
	Time Time `json:"time"`
	// Event is what happened: "banned", "table_gone" and the like.
	Event string `json:"event"`
	// Mode is "enforce", or "observe" if the table drops nothing.
	Mode string `json:"mode,omitempty"`
	// Prefix is the source.
	Prefix netip.Prefix `json:"prefix,omitzero"`
	geo.Place
	Cause string `json:"cause,omitempty"`
	Tier  int    `json:"tier,omitempty"`
	// Protocol and Port are those of a packet of the offence.
	Protocol string `json:"protocol,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Offences int    `json:"offences,omitempty"`
	// Until is when the ban ends, unless it is Forever.
	Until   time.Time `json:"until,omitzero"`
	Forever bool      `json:"forever,omitempty"`
	// Reason is the comment of a ban by hand.
	Reason string `json:"reason,omitempty"`
	// Count is the number of bans, allowances, offences or, of [Lost], events
	// concerned.
	Count int `json:"count,omitempty"`
	// Wrong is what was wrong with a table that was repaired.
	Wrong string `json:"wrong,omitempty"`
}

// New returns the event that news is about.
func New(n *watch.News, now book.Clock) Event {
	e := Event{
		Time:   Time{Time: now.Wall},
		Event:  strings.ReplaceAll(n.Event(), " ", "_"),
		Mode:   ruleset.Mode(n.Observed),
		Prefix: n.Source, Place: n.Place, Cause: n.Cause.String(), Tier: n.Step, Protocol: text.Protocol(n.Proto), Port: n.Port,
		Offences: n.Offences, Forever: n.Forever, Reason: text.Printable(n.Comment), Count: n.Count, Wrong: text.Printable(n.What),
	}
	if !n.Forever && n.Until != 0 {
		e.Until = now.Time(n.Until).UTC().Truncate(time.Second)
	}
	return e
}

// Time is a time that is always written with milliseconds.
type Time struct{ time.Time }

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000Z"`), nil
}

// kinds are what ECS and CEF say about each kind of event: its severity, from 0
// to 10, its name, and its type in ECS.
var kinds = map[string]struct {
	severity      int
	name, ecsType string
}{
	"banned":             {3, "source banned", "denied"},
	"escalated":          {5, "repeat offender banned", "denied"},
	"banned_by_hand":     {3, "source banned by hand", "denied"},
	"lifted":             {3, "ban lifted", "info"},
	"unbanned_by_hand":   {3, "ban lifted by hand", "info"},
	"allowed_by_hand":    {4, "source allowed by hand", "info"},
	"disallowed_by_hand": {3, "allowance ended by hand", "info"},
	"whitelisted":        {5, "ban of a whitelisted source lifted", "info"},
	"restored":           {4, "bans restored", "change"},
	"table_gone":         {9, "table gone", "deletion"},
	"repaired":           {7, "table repaired", "change"},
	"removed":            {6, "table removed", "deletion"},
	"held_back":          {4, "bans held back", "info"},
	"full":               {8, "no room for bans", "info"},
	Lost:                 {6, "events lost", "info"},
}

// wouldBe begins the names of events in observe mode, in which nothing is
// dropped.
const wouldBe = "would_be_"

// describe returns the severity of an event, its name, and its type in ECS.
func (e *Event) describe() (severity int, name, ecsType string) {
	k := kinds[strings.TrimPrefix(e.Event, wouldBe)]
	if strings.HasPrefix(e.Event, wouldBe) {
		return k.severity, k.name + " if enforced", "allowed"
	}
	return k.severity, k.name, k.ecsType
}

// Message returns the event in words.
func (e *Event) Message() string {
	words := []string{text.Prefix(e.Prefix), strings.ReplaceAll(e.Event, "_", " ")}
	if e.Tier > 0 {
		words = append(words, "at tier", strconv.Itoa(e.Tier))
	}
	if e.Cause != "" {
		words = append(words, "for", e.Cause)
	}
	if e.Port > 0 {
		words = append(words, "at", e.Protocol+"/"+strconv.Itoa(int(e.Port)))
	}
	if e.Count > 0 {
		words = append(words, strconv.Itoa(e.Count))
	}
	message := strings.TrimSpace(strings.Join(words, " "))
	for _, more := range []string{e.Reason, e.Wrong} {
		if more != "" {
			message += ": " + more
		}
	}
	return message
}

// Lost is the event that a reader gets in place of those that the ring has
// discarded before they were read. It has no Mode.
const Lost = "lost"

// Decode reads an event from a line of JSON.
func Decode(line []byte) (e Event, err error) {
	if err = json.Unmarshal(line, &e); err != nil {
		err = fmt.Errorf("read an event: %w", err)
	}
	return e, err
}

// Format returns an event as a line.
type Format func(*Event) []byte

// NewFormat returns the format of a name, "json", "ecs" or "cef". The version
// of portmon and the host become part of each event.
func NewFormat(name, version, host string) (Format, error) {
	switch name {
	case "json":
		return func(e *Event) []byte { return jsonLine(e) }, nil
	case "ecs":
		return func(e *Event) []byte { return jsonLine(newECS(e, version, host)) }, nil
	case "cef":
		return func(e *Event) []byte { return cefLine(e, version, host) }, nil
	}
	return nil, fmt.Errorf("%q is not a format (json, ecs, cef)", name)
}

func jsonLine(v any) []byte {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // text, numbers and times can always be encoded
	}
	return line.Bytes()
}
