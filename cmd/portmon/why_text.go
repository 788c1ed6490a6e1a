package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/text"
)

// print writes the answer for people.
func (a *answer) print(p *cli) {
	colour := red
	line := ""
	switch a.Verdict {
	case whitelisted:
		colour, line = green, " by "+a.WhitelistedBy+": it is never banned, and no ban has an effect"
	case banned:
		if a.idle != "" {
			line = ", but the table is not in force"
			break
		}
		line = ": packets from it are dropped, except replies to what this host asked"
	case ownAddress:
		colour, line = green, ": it is never banned"
	case notBanned:
		colour = green
	}
	is := map[verdict]string{
		whitelisted: "is whitelisted", banned: "is banned", ownAddress: "is an address of this host", notBanned: "is not banned",
	}[a.Verdict]
	p.print("%s %s%s\n", a.Address, paint(p.outColour, is, colour), line)
	for i := range a.bans {
		p.print("  %s\n", a.bans[i].describe())
	}
	for _, line := range a.past() {
		p.print("  %s\n", line)
	}
	if a.Verdict == notBanned || a.Verdict == banned {
		for _, line := range a.prospect() {
			p.print("  %s\n", line)
		}
	}
	if a.Packet != nil {
		a.Packet.print(p)
	}
}

// past says what is known of the source's offences.
func (a *answer) past() []string {
	var lines []string
	if a.Offences > 0 {
		line := text.Plural(a.Offences, "offence") + " on record, the last"
		if port := text.Port(a.known.Proto, a.known.Port); port != "" {
			line += " at " + port
		}
		lines = append(lines, line+" on "+a.clock.Time(a.known.Last).In(a.zone).Format(clockLayout))
	}
	if a.Tier > 0 {
		lines = append(lines, fmt.Sprintf("last banned by tier %d, which is remembered for %s more", a.Tier, text.ShortDuration(time.Duration(a.TierExpiresSeconds))))
	}
	if n := len(a.ProbedPorts); n > 0 {
		of := ""
		if a.ScanPorts > 0 {
			of = fmt.Sprintf(" of %d", a.ScanPorts)
		}
		var ports []string
		for _, port := range a.ProbedPorts {
			ports = append(ports, fmt.Sprint(port))
		}
		lines = append(lines, fmt.Sprintf("%d%s distinct closed ports asked for: %s", n, of, strings.Join(ports, ", ")))
	}
	return lines
}

// prospect says what would ban the source.
func (a *answer) prospect() []string {
	next := time.Duration(a.NextBanSeconds)
	if next == 0 {
		return []string{"nothing would ban it: there are no trap ports, and scans are not counted"}
	}
	if a.Verdict == banned {
		return []string{fmt.Sprintf("the next ban would be tier %d, for %s", a.NextTier, text.Duration(next))}
	}
	if a.unroutable {
		return []string{"nothing would ban it: it has no route back, so that what it sends may be forged, and bans nobody"}
	}
	what := "it"
	if !a.Source.IsSingleIP() {
		what = "its network " + a.Source.String()
	}
	how := "a packet to a trap port"
	if a.retries > 0 {
		how = "trap packets within " + text.Duration(a.retries)
	}
	lines := []string{fmt.Sprintf("%s would ban %s for %s (tier %d)", how, what, text.Duration(next), a.NextTier)}
	if a.traps.String() == "" {
		lines = nil
	}
	if a.scans {
		lines = append(lines, a.nextProbe(what, text.Duration(next)))
	}
	if a.ArmedInSeconds > 0 {
		lines = append(lines, fmt.Sprintf("but nothing bans before the traps are armed, in %s", text.ShortDuration(time.Duration(a.ArmedInSeconds))))
	}
	if ports := a.traps.String(); ports != "" {
		lines = append(lines, "traps: "+ports)
	}
	return lines
}

// nextProbe says what packets to closed ports would do.
func (a *answer) nextProbe(what, how string) string {
	within := ""
	if a.scanWindow > 0 {
		within = " within " + text.Duration(a.scanWindow)
	}
	switch left := a.ScanPorts - len(a.ProbedPorts); {
	case a.ScanPorts == 0:
		return "so would packets to several closed ports" + within
	case left <= 1:
		return fmt.Sprintf("a packet to one more closed port would ban %s for %s (tier %d)", what, how, a.NextTier)
	case len(a.ProbedPorts) > 0:
		return fmt.Sprintf("so would packets to %d more closed ports%s", left, within)
	default:
		return fmt.Sprintf("so would packets to %d different closed ports%s", left, within)
	}
}
