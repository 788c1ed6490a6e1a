// Package watch is portmon's companion: it hears of bans, counts offences, takes repeat offenders up the ladder, and puts back what
// others took away.
//
// The kernel tells a program about edits that programs make, and nothing about bans that the packet path makes or about bans that
// expire. So there are three sources, and the watcher needs all of them: the log group that the rules write to, the
// nftables multicast group, and dumps of the sets. A dump is taken at the start, after an overrun of either socket, and when the
// table has come back.
//
// What is known is saved at the start, once a minute and at the end. A watcher that is killed loses nothing that matters: the next one
// finds in the sets what was not saved, and the ledger counts each offence once however often it is told of it.
//
// [core] decides and has no socket in it: reports in, edits out. The rest of the package carries reports to it and edits
// from it.
package watch
