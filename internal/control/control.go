// Package control is how the commands talk to a running watcher: HTTP over a
// unix socket beside the state file.
//
//	GET  /v1/status              Status as JSON
//	GET  /v1/book?source=PREFIX  what is remembered, in the form of a state file;
//	                             of all sources if none is named
//	GET  /v1/events?last=N       the last events as JSON, one on a line; with
//	                             ?follow=true those that come as well, until one
//	                             side hangs up
//	POST /v1/save                returns when all that happened is on the disk
//	POST /v1/reload              reads the configuration again; after an apply,
//	                             ?observe=true or false is the mode of the table,
//	                             and with keep=true what was observed is enforced
//	POST /v1/applying            the table is about to be changed
//	POST /v1/removing            the table is about to be deleted
//	POST /v1/swapping            the table is about to be put back as it was
//	POST /v1/swapped?table=N     that was done, and it has this handle; takes what
//	                             is to be remembered, in place of all that is
//	POST /v1/drilling            takes a JSON list of prefixes that are about to
//	                             offend for a test
//	POST /v1/unbanned            takes a JSON list of prefixes that were unbanned
//	                             with all that is within them, or with
//	                             ?alone=true without; returns those of which
//	                             something was remembered, once that is on disk
//	POST /v1/share               takes a JSON list of sources that were banned by
//	                             hand, for the fleet; returns those that it is
//	                             told of
//	POST /v1/fleet               has the host take part in the fleet that it belongs
//	                             to by now, if any; returns when no ban of another,
//	                             or of one that is off, is put any more
//	POST /v1/disallowed          the same, of prefixes whose allowances have ended
//
// A process that may open the socket may do all of this. Its mode is 0600, and
// it lies in the folder of the state file, which is made with mode 0700 if it is
// missing.
package control

import (
	"net/netip"
	"path/filepath"
	"time"

	"github.com/portmon/portmon/internal/fleet"
)

// Path returns where the socket is of the watcher that keeps its state in a
// file.
func Path(state string) string { return filepath.Join(filepath.Dir(state), "watch.sock") }

// The paths of requests.
const (
	StatusPath     = "/v1/status"
	BookPath       = "/v1/book"
	EventsPath     = "/v1/events"
	SavePath       = "/v1/save"
	ReloadPath     = "/v1/reload"
	ApplyingPath   = "/v1/applying"
	RemovingPath   = "/v1/removing"
	SwappingPath   = "/v1/swapping"
	SwappedPath    = "/v1/swapped"
	DrillingPath   = "/v1/drilling"
	UnbannedPath   = "/v1/unbanned"
	DisallowedPath = "/v1/disallowed"
	SharePath      = "/v1/share"
	FleetPath      = "/v1/fleet"
)

// Status is what a watcher says of itself.
type Status struct {
	PID int `json:"pid"`
	// NetNS is the kernel's number for the network namespace that is watched.
	NetNS uint64    `json:"netns"`
	Since time.Time `json:"since"`
	// Config is the file that the watcher has read; empty if it is the built-in
	// default.
	Config string `json:"config"`
	// Table is whether there is a table, and TableCurrent whether it is what
	// the configuration says; TableWrong is what is not.
	Table        bool   `json:"table"`
	TableCurrent bool   `json:"table_current"`
	TableWrong   string `json:"table_wrong,omitempty"`
	// Mode is "observe" if the table drops nothing, otherwise "enforce".
	Mode string `json:"mode"`
	// Rows is how many sources are remembered, and Offenders those of them
	// whose offences count.
	Rows      int `json:"rows"`
	Offenders int `json:"offenders"`
	// Overruns is how often messages or events were lost, and Resyncs how often
	// the sets were read to make up for it.
	Overruns uint64 `json:"overruns"`
	Resyncs  uint64 `json:"resyncs"`
	// SaveFailures is how often the state file could not be written, and
	// SaveError why it cannot be now.
	SaveFailures uint64 `json:"save_failures"`
	SaveError    string `json:"save_error,omitempty"`
	// Metrics is the address that the configuration names, and MetricsError why
	// nothing is served there now.
	Metrics      string `json:"metrics,omitempty"`
	MetricsError string `json:"metrics_error,omitempty"`
	// Names are the host names whose addresses are allowed.
	Names []Name `json:"names,omitempty"`
	// Fleet is how the host fares in its fleet, nil if it belongs to none.
	Fleet *fleet.Status `json:"fleet,omitempty"`
	// JournalDropped is how many lines of the journal were dropped, because
	// standard error stalled or was closed.
	JournalDropped uint64 `json:"journal_dropped"`
}

// Name is a host name whose addresses are allowed.
type Name struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	// Since is when they became these; zero if that was before the watcher was
	// started.
	Since time.Time `json:"since,omitzero"`
	// Failures is how often a look-up had no good answer, and Error why there is
	// none now.
	Failures uint64 `json:"failures"`
	Error    string `json:"error,omitempty"`
}
