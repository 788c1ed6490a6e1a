package ruleset

import "strings"

// OffenceMark begins the comment of a ban in the first tier that counts as an offence although a program made it and no trap: one
// that saw the source do wrong, such as fail2ban. Without it, a ban that a program makes is one by hand, and counts as none.
const OffenceMark = "offence: "

// Offence returns what was noted beside a ban behind the [OffenceMark], and whether it was marked.
func Offence(comment string) (reason string, ok bool) { return strings.CutPrefix(comment, OffenceMark) }
