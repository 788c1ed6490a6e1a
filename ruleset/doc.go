// Package ruleset is portmon's nftables table as data.
//
// A [Spec] says what is wanted. [Compile] turns it into a [Table]: sets, chains and rules, each of which knows how to travel over
// netlink and how to be written in nft syntax. [Read] tells what the kernel holds, as a [State]. [Diff] compares the two and
// makes a [Plan], the operations of one transaction, which can be shown before it is run. [Apply] does all of that, and does it
// again if somebody changed the ruleset in between.
//
// Spec, Table and Plan are plain data and need no kernel. Nothing here prints, logs, reads the environment or runs programs,
// and no table but the one named by the Spec is read for a decision or touched.
//
// The bans that a table holds are read by [State.Bans] and [State.Lookup], made by [State.Ban] and lifted by [State.Unban].
package ruleset
