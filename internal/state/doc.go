// Package state keeps on disk what must outlast the watcher, the table and the host: the bans with the time they have left, and the
// offences of each source.
//
// It is one file of JSON lines: a header, a line for each source or prefix, and a last line with their number and a checksum. [Write]
// replaces it at once and as a whole, so that whoever is killed, and when, there is the old file or the new one. [Open] reads
// whatever can be read, and [Restore] decides what of it is to be in the kernel and in the ledger.
//
// # What can be wrong with a file
//
// In every case all records that can be read are read; the [Report] says in a sentence what happened, and the next Write keeps the
// file aside, except as told below.
//
//	missing, empty        nothing is remembered; normal on a new host
//	torn                  every line up to there is read
//	a line is garbage     it is left out, and its number told
//	the header is garbage the records are read; the state counts as saved when the file was last written, from an unknown table
//	edited                read as it is
//	a newer version       not read: a VersionError
//	not ours              not read, and never written: a ForeignError; it is not for us to move other people's files
//	another machine       read, but not restored unless forced: a MachineError
//
// # Time
//
// Each record has the date at which its ban ends, which people can read, and the header has the time of saving by both clocks, so
// that the time which was left then is known as well. Within a boot the monotonic clock tells how much of it has passed, whatever
// was done to the wall clock. After a reboot the wall clock tells; if it shows a time before that of saving, as it does on a host
// without a battery, then no time is taken to have passed. No ban gets more time than its tier gives.
package state
