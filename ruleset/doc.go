// Package ruleset is portmon's nftables table: traps, scan detection, and a
// ladder of bans that the kernel climbs without a program running.
//
// # Making the table
//
// A [Spec] says what is wanted; [Default] is a good start. [Apply] makes the
// kernel's table that of the Spec in one transaction, keeps the bans that it
// holds, and changes nothing if it is as it should be. [Prepare] returns the
// same [Plan] without running it, and [Remove] deletes the table.
//
// Apply compiles the Spec to a [Table], sets, chains and rules that can be
// written in nft syntax ([Compile]), reads what the kernel holds ([Read]),
// compares the two ([Diff]), and starts again if the ruleset changed in
// between. Spec, Table and Plan are plain data and need no kernel.
//
// # Bans
//
// [Open] returns a [Handle] for a table. [Handle.Put] bans and remembers
// sources, [Handle.Offend] bans an address by the next step of the ladder,
// [Handle.Unban] lifts bans. [Handle.Lookup] asks about one address,
// [Handle.Bans] lists all bans, and [Handle.Trace] follows a packet through
// the rules. A source is an IPv4 address, or for IPv6 a /64 or an address,
// depending on the table: [Handle.Source] returns which.
//
// The sets of the table have a [Role]: what it means to be in them. Their names
// and those of the counters do not change between versions.
//
// The package does not print, log, read the environment or run programs, and
// it reads and touches no table but the one that the Spec names.
package ruleset
