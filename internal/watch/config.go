package watch

import (
	"time"

	"github.com/portmon/portmon/ruleset"
)

// Config says what to watch, and how.
type Config struct {
	// NetNS is the file descriptor of the network namespace, or 0 for that of
	// the calling thread. It is needed only during [Open].
	NetNS int

	// Spec is what the table must be. It must be valid.
	Spec ruleset.Spec

	// ReadBuffer is the size in bytes of the buffers in which messages and
	// events wait to be received; 0 means the defaults of nflog and nftset.
	ReadBuffer int

	// State is the file of the book; with none, it ends with the watcher. What
	// has changed is written within a second.
	State string

	// Ready, unless nil, is called once, when the table has been compared with
	// the book and what it lacked has been put back.
	Ready func()

	// News and Fault, unless nil, get what happened, and what went wrong
	// without an end to the watch. The loop calls them, and while they run it
	// hears nothing: they must not block, and must not keep the slice. Whoever
	// passes news on to something that can stall needs a bounded queue of its
	// own.
	News  func([]News)
	Fault func(error)

	// Beat, unless nil, is called again and again while all is well, at least
	// every BeatEvery; 0 means every 10 seconds.
	Beat      func()
	BeatEvery time.Duration
}

// maxRows is how many sources the book remembers: twice as many as the sets of
// both families that remember the first step.
func (c *Config) maxRows() int { return 8 * int(c.Spec.Size) }
