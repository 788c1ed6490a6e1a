package main

import (
	"fmt"

	"github.com/portmon/portmon/internal/config"
)

// print writes the answer for people.
func (a *answer) print(p *cli) {
	switch a.Verdict {
	case whitelisted:
		p.print("%s %s by %s: it is never banned, and no ban counts\n", a.Address, paint(p.outColour, "is whitelisted", green), a.WhitelistedBy)
	case banned:
		p.print("%s %s: packets from it are dropped, but for replies to what this host asked\n", a.Address, paint(p.outColour, "is banned", red))
	case ownAddress:
		p.print("%s %s: traps do not ban it\n", a.Address, paint(p.outColour, "is this host's own", green))
	case notBanned:
		p.print("%s %s\n", a.Address, paint(p.outColour, "is not banned", green))
		for _, line := range a.prospect() {
			p.print("  %s\n", line)
		}
	}
	for i := range a.bans {
		p.print("  %s\n", a.bans[i].describe())
	}
	for _, line := range a.record() {
		p.print("  %s\n", line)
	}
}

// record says what is known of the source's offences, and what the next one leads to.
func (a *answer) record() []string {
	if a.Offences == 0 {
		return nil
	}
	text := plural(a.Offences, "offence") + " on record, the last"
	if port := portName(a.proto, a.LastPort); port != "" {
		text += " at " + port
	}
	text += " on " + a.LastOffence.In(a.zone).Format("2006-01-02 15:04:05")
	if !a.Watched {
		return []string{text, "no watcher runs, which would ban it for longer the next time"}
	}
	if a.NextTier == 0 {
		return []string{text}
	}
	return []string{text, fmt.Sprintf("the next ban is in tier %d, for %s", a.NextTier, config.FormatDuration(a.next))}
}

// prospect says what would ban an address that is not.
func (a *answer) prospect() []string {
	if a.wouldBan == 0 {
		return []string{"nothing would ban it: there are no trap ports"}
	}
	what, how := "it", "a packet to a trap port"
	if !a.Source.IsSingleIP() {
		what = "its network " + a.Source.String()
	}
	if a.retries > 0 {
		how = "trap packets within " + config.FormatDuration(a.retries)
	}
	return []string{
		fmt.Sprintf("%s would ban %s for %s", how, what, config.FormatDuration(a.wouldBan)),
		fmt.Sprintf("traps: %s", a.traps),
	}
}

// describe says all about a ban: "198.51.100.0/24 in net4, for ever: spam wave".
func (e *entry) describe() string {
	text := fmt.Sprintf("%s in %s", shortPrefix(e.prefix), e.set)
	if e.tier > 0 {
		text += fmt.Sprintf(", tier %d", e.tier)
	}
	if e.expires == 0 {
		text += ", for ever"
	} else {
		if e.timeout > 0 {
			text += ", for " + config.FormatDuration(e.timeout)
		}
		if age, ok := e.age(); ok {
			text += " since " + e.read.Add(-age).Format("2006-01-02 15:04:05")
		}
		text += ", " + short(e.expires) + " left"
	}
	if cause := e.cause(); cause != "" {
		text += ": " + printable(cause)
	}
	return text
}
