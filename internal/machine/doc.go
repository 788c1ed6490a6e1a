// Package machine evaluates portmon's table in Go: the very expressions that go
// to the kernel, on packets that were captured or made up, by the clock of the
// packets. It has no knowledge of what the rules are for.
//
// A [Machine] is a table with its sets, counters and limits. A [Host] is what
// the kernel knows beside the table: which addresses are its own, where programs
// listen, and which connections there are. Several machines can stand on one
// host, to compare what several tables would do.
//
// An expression, or a way to use one, that is not known here makes [New] fail.
// Where the machine is simpler than the kernel: expired elements make room at
// once and not within a second; TCP sequence numbers and checksums are not
// checked; there is always a route back to a source, and never a mark, nor DNAT.
package machine
