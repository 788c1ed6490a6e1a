// Package nftset reads and edits the sets of an nftables table over netlink:
// addresses, prefixes, ranges, ports, addresses with ports, and protocols, with
// timeouts and comments. It needs neither the nft program nor cgo.
//
// [Dial] opens a connection. [Addr], [Prefix], [Ports] and [Single] make
// elements, [Element.For] gives them a timeout, a [Tx] collects what is to be
// done, and [Conn.Commit] does it:
//
//	banned, err := conn.Set(table, "banned") // asks the kernel for its type and flags
//	…
//	var tx nftset.Tx
//	tx.Add(banned, nftset.Addr(a).For(time.Hour), nftset.Prefix(p))
//	err = conn.Commit(&tx)
//
// # Reading
//
// [Conn.Elements] streams a set as an iterator; a million elements need as much
// memory as their keys. A dump is not a snapshot: while the set changes, the
// kernel may repeat elements, which this package hides, and miss others, for
// which it reads again where it sees signs of that. So ask [Conn.Get] before
// you believe that an element is absent. [Conn.GetMany] asks for many keys; for
// known keys of a large set it is ten times as fast as a dump.
//
// # Writing
//
// A transaction takes effect as a whole or not at all. Errors name the
// operation, the set and the element (see [OpError]). Cut edits of many elements
// that need not be atomic into transactions of [BatchSize].
//
// The kernel never merges intervals, and refuses those that overlap. [Merge]
// makes any collection fit for it.
//
// # Listening
//
// [Listen] opens a [Monitor], which receives what programs do to the sets of a
// table. The kernel reports neither what the packet path adds nor what expires.
//
// # Concurrency
//
// A [Conn] is for one goroutine at a time. Open one for each role: they are
// cheap.
package nftset
