// Package machine evaluates portmon's table in Go: the very expressions that go
// to the kernel, on captured or made-up packets, by the clock of the packets.
// It does not know what the rules are for.
//
// A [Machine] is a table with its sets, counters and limits. A [Host] is what
// else the kernel knows: which addresses are its own, where programs listen,
// and which connections there are. Several machines can share a host, to
// compare what several tables would do.
//
// [New] fails if it does not know an expression, or the way it is used. A
// machine is simpler than the kernel in a few ways: expired elements make room
// at once and not within a second; TCP sequence numbers and checksums are not
// checked; there is always a route back to a source, and never a mark or DNAT.
package machine
