package book

import (
	"encoding/json"
	"errors"
	"time"
)

// Version is that of the file's format. A change that an older portmon would
// misread raises it; a new key does not.
const Version = 2

const (
	format      = "portmon-state"
	headerStart = `{"format":"` + format + `"`
)

// Header says when the rows around it were written, and what they are about.
// The table is nil in one that leaves it as it was.
type Header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Saved   time.Time `json:"saved"`
	Uptime  seconds   `json:"uptime_seconds"`
	Machine string    `json:"machine,omitempty"`
	Boot    string    `json:"boot_id,omitempty"`
	NetNS   uint64    `json:"netns,omitempty"`
	Table   *uint64   `json:"table_handle,omitempty"`
	Rows    int       `json:"rows,omitempty"` // that follow, when the file was last rewritten
}

func newHeader(o Origin, now Clock) Header {
	return Header{
		Format: format, Version: Version, Saved: now.Wall.Truncate(time.Millisecond).UTC(),
		Uptime:  seconds(time.Duration(now.Boot).Truncate(time.Millisecond)),
		Machine: o.Machine, Boot: o.Boot, NetNS: o.NetNS, Table: &o.Table,
	}
}

func (h *Header) append(b []byte) []byte {
	line, err := json.Marshal(h)
	if err != nil {
		panic("a header is always JSON: " + err.Error())
	}
	return append(append(b, line...), '\n')
}

var errNotHeader = errors.New("its first line is not a header of portmon")

// parse reads a header. The error is errNotHeader, or a *RefusedError if it is
// that of a newer version.
func (h *Header) parse(line []byte) error {
	// First the version alone: the next one may have other types for the rest.
	var kind struct {
		Format  string
		Version int
	}
	if json.Unmarshal(line, &kind) != nil || kind.Format != format || kind.Version < 1 {
		return errNotHeader
	}
	if kind.Version > Version {
		return &RefusedError{"written by a newer portmon", "update portmon, or move the file away to begin without it"}
	}
	if *h = (Header{}); json.Unmarshal(line, h) != nil || !isDate(h.Saved) {
		return errNotHeader
	}
	return nil
}

// Clock returns what both clocks showed.
func (h *Header) Clock() Clock { return Clock{Moment(h.Uptime), h.Saved} }

// Origin returns what the rows are about.
func (h *Header) Origin() Origin {
	o := Origin{Machine: h.Machine, Boot: h.Boot, NetNS: h.NetNS}
	if h.Table != nil {
		o.Table = *h.Table
	}
	return o
}

// isDate reports whether a time is one that a clock can have shown, and near
// which others can be written as dates.
func isDate(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 9000 }
