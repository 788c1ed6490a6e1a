package notice

// Variable is one that a command finds in its environment.
type Variable struct{ Name, Meaning string }

// Variables are all of them but those that every program has. The last eight
// are of a notice of one event.
var Variables = []Variable{
	{"PORTMON_EVENT", `"summary", or what happened: "banned", "escalated", "banned by hand", "lifted", "full", "whitelisted", "restored", "table gone", "repaired", "removed".`},
	{"PORTMON_TITLE", "A line."},
	{"PORTMON_MESSAGE", "A line, or several."},
	{"PORTMON_PRIORITY", "2 (low), 3 or 4 (high), as ntfy has them."},
	{"PORTMON_HOST", "The name of the host."},
	{"PORTMON_COUNT", "How many events the notice is about."},
	{"PORTMON_ADDRESS", `Who is banned, if it is one event: an address, or a prefix such as "2001:db8::/64".`},
	{"PORTMON_TIER", "The step of the ladder, from 1."},
	{"PORTMON_CAUSE", `Why it is banned: "trap", "scan", "subnet", "hand" or "other".`},
	{"PORTMON_PROTOCOL", `"tcp", "udp", or the number of the protocol, of the offence.`},
	{"PORTMON_PORT", "The port of the offence."},
	{"PORTMON_OFFENCES", "How many offences count."},
	{"PORTMON_UNTIL", "The end of the ban, such as 2026-01-18T19:04:26Z; not set if that is never."},
	{"PORTMON_REASON", "The comment of the ban, without control characters."},
}
