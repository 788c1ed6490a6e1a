package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/text"
)

// print writes the answer for people.
func (a *answer) print(p *cli) {
	colour, is := green, "is not banned"
	switch a.Verdict {
	case whitelisted:
		is = "is whitelisted"
	case ownAddress:
		is = "is an address of this host"
	case banned:
		colour, is = red, "is banned"
	}
	p.print("%s %s%s\n", a.Address, paint(p.outColour, is, colour), a.effect())
	for i := range a.bans {
		p.print("  %s\n", a.bans[i].describe())
	}
	for _, line := range append(a.past(), a.prospect()...) {
		p.print("  %s\n", line)
	}
	if a.Packet != nil {
		a.Packet.print(p)
	}
}

// effect returns what the verdict means for packets.
func (a *answer) effect() string {
	switch {
	case a.Verdict == whitelisted:
		return " by " + a.WhitelistedBy + ": it is never banned, and no ban has an effect"
	case a.Verdict == ownAddress:
		return ": it is never banned"
	case a.NoEffect != "":
		return ", but " + a.NoEffect
	case a.Verdict == banned:
		return ": packets from it are dropped, except replies to what this host asked"
	}
	return ""
}

// past returns what is known of the source's offences.
func (a *answer) past() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if a.Offences > 0 {
		at := ""
		if a.LastProtocol != "" {
			at = " at " + a.LastProtocol
			if a.LastPort > 0 {
				at += fmt.Sprintf("/%d", a.LastPort)
			}
		}
		add("%s on record, the last%s on %s", text.Plural(a.Offences, "offence"), at, a.last.Format(clockLayout))
	}
	if a.Tier > 0 {
		left := text.ShortDuration(time.Duration(a.TierExpiresSeconds))
		add("last banned by tier %d, which is remembered for %s more", a.Tier, left)
	}
	if n := len(a.ProbedPorts); n > 0 {
		ports := strings.ReplaceAll(strings.Trim(fmt.Sprint(a.ProbedPorts), "[]"), " ", ", ")
		add("%d of %d distinct closed ports asked for: %s", n, a.ScanPorts, ports)
	}
	return lines
}

// prospect returns what would ban the source.
func (a *answer) prospect() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	next, traps := text.Duration(time.Duration(a.NextBanSeconds)), a.trapReport.String()
	switch {
	case a.Verdict != banned && a.Verdict != notBanned:
		return nil
	case a.NextBanSeconds == 0:
		return []string{"nothing would ban it: there are no trap ports, and scans are not counted"}
	case a.Verdict == banned:
		return []string{fmt.Sprintf("the next ban would be tier %d, for %s", a.NextTier, next)}
	case a.unroutable:
		return []string{"nothing would ban it: it has no route back, so its packets may be forged"}
	}
	what := "it"
	if !a.Source.IsSingleIP() {
		what = "its network " + a.Source.String()
	}
	bans := fmt.Sprintf("would ban %s for %s (tier %d)", what, next, a.NextTier)
	switch {
	case traps == "":
	case a.retries > 0:
		add("trap packets within %s %s", text.Duration(a.retries), bans)
	default:
		add("a packet to a trap port %s", bans)
	}
	switch missing := a.ScanPorts - len(a.ProbedPorts); {
	case a.ScanPorts == 0:
	case missing <= 1:
		add("a packet to one more closed port %s", bans)
	case len(a.ProbedPorts) > 0:
		add("so would packets to %d more closed ports within %s", missing, text.Duration(a.scanWindow))
	default:
		add("so would packets to %d different closed ports within %s", missing, text.Duration(a.scanWindow))
	}
	if a.ArmedInSeconds > 0 {
		add("but nothing bans before the traps are armed, in %s", text.ShortDuration(time.Duration(a.ArmedInSeconds)))
	}
	if traps != "" {
		add("traps: %s", traps)
	}
	return lines
}
