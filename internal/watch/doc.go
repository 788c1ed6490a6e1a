// Package watch is portmon's companion: it hears of bans, counts offences, takes repeat offenders up the ladder, and puts back what
// others took away.
//
// The kernel tells a program about edits that programs make, and nothing about bans that the packet path makes or about bans that
// expire. So there are three sources, and the watcher needs all of them: the log group that the rules write to, the
// nftables multicast group, and dumps of the sets. A dump is taken at the start, after an overrun of either socket, and when the
// table has come back.
//
// [core] decides and has no socket in it: reports in, edits out. The rest of the package carries reports to it and edits
// from it.
package watch
