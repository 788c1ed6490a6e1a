// Package names follows the addresses of host names: it decides when to ask
// for which, and which of the answers count. [Names] does no I/O and has no
// clock; [Lookup] asks.
//
// # What a resolver can do
//
// Whoever answers for a name, or forges answers, decides which addresses it
// has. So a name has [MaxAddrs] addresses at most, however many are in an
// answer, and none that no packet from outside can have. An answer without any
// that count, such as "no such name", takes nothing away, and neither does a
// resolver that fails: what was answered last stays until its owner forgets it.
//
// An address that an answer lacks is given up when the next one lacks it too,
// which is a TTL later: names with more addresses than fit into an answer have
// others in each.
//
// # Who asks
//
// The resolver of package net does, in Go, as /etc/resolv.conf, /etc/hosts and
// /etc/nsswitch.conf say: several servers, timeouts, TCP for what is too large
// for UDP, forged answers passed over. It does not say for how long an answer
// is valid, so [Lookup] reads that from the messages that pass. It follows no
// CNAME itself: an answer is one message.
//
// A and AAAA are questions of their own, as some resolvers fail at one of them.
package names
