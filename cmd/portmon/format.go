package main

import (
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
)

// clockLayout is how moments are written for people, in local time.
const clockLayout = "2006-01-02 15:04:05"

// stamp writes a moment for JSON, "" for the zero time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

type seconds = text.Seconds

// banTime returns how long a ban lasts: "for 8h", or "forever".
func banTime(d time.Duration) string {
	if d <= 0 {
		return forever
	}
	return "for " + text.Duration(d)
}

// offencesJSON is what is remembered of the offences of a source.
type offencesJSON struct {
	Offences     int    `json:"offences,omitempty"`
	FirstOffence string `json:"first_offence,omitempty"`
	LastOffence  string `json:"last_offence,omitempty"`
	LastProtocol string `json:"last_protocol,omitempty"`
	LastPort     uint16 `json:"last_port,omitempty"`
}

func offencesOf(row *book.Row, clock book.Clock) offencesJSON {
	if row == nil || row.Offences == 0 {
		return offencesJSON{}
	}
	v := offencesJSON{Offences: row.Offences, LastProtocol: text.Protocol(row.Proto), LastPort: row.Port}
	if row.First != 0 {
		v.FirstOffence = stamp(clock.Time(row.First))
	}
	if row.Last != 0 {
		v.LastOffence = stamp(clock.Time(row.Last))
	}
	return v
}
