package notice

import "time"

// passed are the variables that a command gets of our own environment. That of
// a service holds things that are for it alone, such as NOTIFY_SOCKET.
var passed = []string{"HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "CREDENTIALS_DIRECTORY"}

// standardPath is the PATH of a command if we have none.
const standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func inherited(lookup func(string) (string, bool)) []string {
	path, ok := lookup("PATH")
	if !ok || path == "" {
		path = standardPath
	}
	env := []string{"PATH=" + path}
	for _, name := range passed {
		if value, ok := lookup(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// environ returns what a command learns of a notice. What is not known is left
// out.
func environ(n *notice) []string {
	var env []string
	set := func(name, value string) {
		if value != "" {
			env = append(env, "PORTMON_"+name+"="+value)
		}
	}
	number := func(name string, value int) {
		if value > 0 {
			set(name, count(value))
		}
	}
	kind := "summary"
	if n.event != nil {
		kind = n.event.Kind.String()
	}
	set("EVENT", kind)
	set("TITLE", n.title)
	set("MESSAGE", n.message)
	number("PRIORITY", n.priority)
	set("HOST", n.host)
	number("COUNT", n.count)
	if e := n.event; e != nil {
		set("ADDRESS", e.subject())
		number("TIER", e.Tier)
		set("CAUSE", e.Cause)
		set("PROTOCOL", e.protocol())
		number("PORT", int(e.Port))
		number("OFFENCES", e.Offences)
		if !e.Forever && !e.Until.IsZero() {
			set("UNTIL", e.Until.UTC().Format(time.RFC3339))
		}
		set("REASON", e.Reason)
	}
	return env
}
