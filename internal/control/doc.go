// Package control is how the commands talk to a watcher that runs: HTTP over a unix socket beside the state file.
//
//	GET  /v1/status                 Status as JSON
//	GET  /v1/records?source=PREFIX  what is remembered, in the form of a state file; of all sources if none is named
//	POST /v1/save                   writes the state file
//	POST /v1/forgive                takes a JSON list of prefixes, whose offences count no more; returns those that had any
//	POST /v1/reload                 re-reads the configuration
//
// Whoever may open the socket may do all of this. Its mode is 0600, and it lies in the directory of the state file, which is 0700 if
// the watcher has made it.
package control

import "path/filepath"

// Path returns where the socket is of the watcher that keeps its state in that file.
func Path(state string) string { return filepath.Join(filepath.Dir(state), "watch.sock") }

const (
	statusPath  = "/v1/status"
	recordsPath = "/v1/records"
	savePath    = "/v1/save"
	forgivePath = "/v1/forgive"
	reloadPath  = "/v1/reload"
)
