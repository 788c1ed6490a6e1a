// Package watch remembers bans, puts back what other programs removed, and
// repairs the table. The packet path bans, and escalates repeat offenders,
// without it.
//
// # Where its knowledge comes from
//
// The kernel reports what other programs change, but neither the bans that the
// packet path makes nor those that end. So there are three inputs: the log
// group, to which the packet path reports each ban; the nftables multicast
// group; and the sets themselves, which are read at the start, after either
// socket overran, when the table is another one, and for Save.
//
// The log and the multicast group are two sockets, and a report from one may be
// older than an earlier one from the other. Where that matters, the kernel is
// asked about the source in question, and its answer counts.
//
// # How it is built
//
// [core] decides and does no I/O: it receives reports with the time, keeps the
// book, and returns what to ask, change and publish. [Watcher] is the loop
// around it. What takes time runs beside the loop: one goroutine reads the
// kernel, one changes it, one waits for the disk. Each has at most one piece of
// work, and the next is chosen when that is done, so no queue between them can
// grow.
package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/ruleset"
)

// Config says what to watch, and how.
type Config struct {
	// NetNS is the file descriptor of the network namespace, or 0 for that of
	// the calling thread. It is needed only during [Open].
	NetNS int

	// Spec is what the table must be, but for its mode, which is for whoever
	// applies to choose. It must be valid.
	Spec ruleset.Spec

	// Applied, unless nil, is in which mode that was applied just now. It is
	// used only from a reload; without it the mode is that of the table.
	Applied *Applied

	// ReadBuffer is the size in bytes of the buffers in which messages and
	// events wait to be received; 0 means the defaults of nflog and nftset.
	ReadBuffer int

	// State is the file of the book; without one, the book is in memory only.
	// Changes are written within a second.
	State string

	// Locate, unless nil, returns where a source is. It may wait for a disk:
	// it and News then run beside the loop.
	Locate func(netip.Prefix) geo.Place

	// Uses, unless nil, returns to which service of this host a source is
	// connected, by its TCP port, 0 if to none. It is called beside the loop, and
	// only if there is a Locate.
	Uses func(netip.Prefix) uint16

	// Ready, unless nil, is called once, when the table has been compared with
	// the book and what it lacked was put back.
	Ready func()

	// News and Fault, unless nil, are called with what happened, and with
	// errors that do not end the watch. They may run in the loop, so they must not
	// block: use a bounded queue for what can stall. They must not keep the
	// slice.
	News  func([]News)
	Fault func(error)
}

// MaxRows is how many sources the book remembers: twice as many as the sets of
// both families that remember the first step.
func (c *Config) MaxRows() int { return 8 * int(c.Spec.Size) }

// Applied is in which mode a table was applied.
type Applied struct {
	// Observe reports that it drops nothing; Keep that it does from now on, and
	// that what was observed before is enforced as well.
	Observe, Keep bool
}
