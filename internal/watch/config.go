// Package watch is what `portmon watch` does about the table: it remembers
// bans, puts back what others took away, and repairs the table. The packet path
// bans, and takes repeat offenders up the ladder, without it.
//
// # What it knows, and from where
//
// The kernel reports what other programs change, but not the bans that the
// packet path makes, nor those that end. So there are three sources: the log
// group, to which the packet path reports each ban; the nftables multicast
// group; and the sets themselves, which are read at the start, after an overrun
// of either socket, and when the table is another one.
//
// The log and the multicast group are two sockets, and what comes from one may
// be older than what came from the other before. Where that matters, the kernel
// is asked about the source in question, and its answer counts.
//
// # How it is built
//
// [core] decides and does nothing: it takes reports with the time, keeps the
// book, and says what is to be asked, changed and reported. [Watcher] carries
// reports to it and its wishes from it, in a loop. What takes time runs beside
// that: one goroutine reads the kernel, one changes it, one waits for the disk.
// Each has at most one piece of work, and the next is made up when it is done,
// so that there is no queue between them that could grow.
package watch

import (
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
}

// maxRows is how many sources the book remembers: twice as many as the sets of
// both families that remember the first step.
func (c *Config) maxRows() int { return 8 * int(c.Spec.Size) }
