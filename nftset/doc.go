// Package nftset reads and edits the sets of an nftables table over netlink:
// addresses, prefixes, ranges, ports, addresses with ports, and protocols, with
// timeouts, comments and counters. It knows nothing of rules, traps or bans.
//
// # Reading
//
// [Conn.Elements] streams a set as an iterator: nothing is allocated per element, and a million elements need as much memory
// as their keys. A dump is not a snapshot. The kernel walks the set anew for each datagram, so while the set changes it may
// repeat elements, which this package hides, and miss others, for which it reads again where there are signs of that; there
// need not be any. So ask [Conn.Get] before you believe that an element is absent.
// [Conn.GetMany] asks for many keys: it is sure as well, and for the known keys of a
// large set it is ten times as fast as a dump.
//
// # Writing
//
// A [Tx] collects operations and [Conn.Commit] runs all of them or none. Errors name the operation, the set and the element
// (see [OpError]). Edits of many elements that need not be atomic go through [Conn.Add] and [Conn.Delete], which cut them
// into transactions of [BatchSize]: any listener on the nftables multicast group, and every well-run host has one, costs the
// kernel about 8 KB for each element of a transaction until it commits.
//
// # Listening
//
// A [Monitor] tells what programs do to the sets of a table. The kernel tells nobody what the packet path adds, nor what
// expires: a program that only listens knows less than it believes.
//
// # Intervals
//
// The kernel never merges intervals, and refuses those that overlap. [Merge] makes any collection fit for it.
//
// # Concurrency
//
// A [Conn] is for one goroutine at a time. Open one for each role: they are cheap.
package nftset
