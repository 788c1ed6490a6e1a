// Package book keeps what is remembered of each source: its ban, its step of
// the ladder, and what only the watcher learns, such as its last port. The
// kernel's sets are the truth; the book is a copy that outlives them.
//
// A [Book] is one row per source in a map. It has no clock and no goroutine:
// whatever depends on the time takes it as an argument. Rows keep moments of
// CLOCK_BOOTTIME, never durations that would have to be counted down.
//
// # The file
//
// JSON lines: a header, then rows. A later row replaces an earlier one of the
// same source, and "free" says that the source is unbanned and forgotten.
// Changes are appended and synced at most once a second. The file is rewritten
// when more than half of its lines are dead, and when its owner asks for it at
// an orderly end; if nothing changed, nothing is written.
//
//	{"format":"portmon-state","version":2,"saved":"2026-01-18T11:04:26.123Z",…}
//	{"prefix":"203.0.113.7/32","timeout_seconds":600,"until":"2026-01-18T11:…}
//	{"prefix":"203.0.113.9/32","free":true}
//
// A line that was cut off at the end is normal after a power cut and dropped.
// Other lines that cannot be read are skipped and counted in the [Report]; the
// damaged file is kept as .bad when it is rewritten. A file of a newer version
// is refused, and one that portmon did not write is never touched.
//
// # Time
//
// Rows have dates, which people can read and edit. A header has both clocks,
// so each date is also a moment since boot, whatever was done to the wall clock
// afterwards. When the two drift apart another header follows. Over a reboot
// the wall clock shows how much time has passed. If it shows a time before the
// last header, as it does on a host without a battery, then none has. No ban
// is given more time than its timeout.
//
// # Who may write
//
// The folder may belong to an unprivileged user while root works in it, which
// package folder makes safe.
package book
