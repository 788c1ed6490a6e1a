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
