package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/text"
)

// verdicts has how each verdict is written, and what it means for packets.
var verdicts = map[verdict]struct {
	colour    style
	is, means string
}{
	banned:      {red, "is banned", ": packets from it are dropped, except replies to what this host asked"},
	wouldBan:    {yellow, "would be banned", ": the table observes, and drops nothing"},
	whitelisted: {green, "is whitelisted", " by %s: it is never banned, and no ban has an effect"},
	allowed:     {green, "is allowed", " %s: until then it is never banned, and no ban has an effect"},
	ownAddress:  {green, "is an address of this host", ": it is never banned"},
	notBanned:   {green, "is not banned", ""},
}

// print writes the answer for people.
func (a *answer) print(p *cli) {
	v := verdicts[a.Verdict]
	switch {
	case a.NoEffect != "":
		v.means = ", but " + a.NoEffect
	case a.Verdict == allowed:
		v.means = fmt.Sprintf(v.means, a.Allowed.allowance())
	case a.WhitelistedBy != "":
		v.means = fmt.Sprintf(v.means, a.WhitelistedBy)
	}
	p.print("%s %s%s\n", a.Address, paint(p.outColour, v.is, v.colour), v.means)
	if place := a.Place.String(); place != "" {
		p.print("  from %s\n", place)
	}
	matters := a.Verdict == banned || a.Verdict == wouldBan || a.Verdict == notBanned
	if matters && len(a.Interfaces) > 0 && !a.spared {
		p.print("  what comes in by %s is never an offence, and never dropped\n", text.Printable(text.Enumerate(a.Interfaces, "or")))
	}
	for i := range a.Bans {
		p.print("  %s\n", a.Bans[i].describe())
	}
	if a.Fleet != nil {
		p.print("  %s\n", a.Fleet.describe())
	}
	if a.Offences > 0 {
		p.print("  %s on record, the last%s\n", text.Plural(a.Offences, "offence"), a.last)
	}
	if a.Tier > 0 {
		left := text.ShortDuration(time.Duration(a.TierExpiresSeconds))
		p.print("  last banned by tier %d, which is remembered for %s more\n", a.Tier, left)
	}
	if n := len(a.ProbedPorts); n > 0 {
		ports := strings.ReplaceAll(strings.Trim(fmt.Sprint(a.ProbedPorts), "[]"), " ", ", ")
		p.print("  %d of %d distinct closed ports asked for: %s\n", n, a.ScanPorts, ports)
	}
	if matters {
		a.printNext(p)
	}
	if a.Packet != nil {
		a.Packet.print(p)
	}
}

// printNext writes what would ban the source next.
func (a *answer) printNext(p *cli) {
	next, traps := text.Duration(time.Duration(a.NextBanSeconds)), a.trapReport.String()
	switch {
	case a.NextBanSeconds == 0:
		p.print("  nothing would ban it: there are no trap ports, and scans are not counted\n")
		return
	case a.Verdict != notBanned:
		p.print("  the next ban would be tier %d, for %s\n", a.NextTier, next)
		return
	case a.unroutable:
		p.print("  nothing would ban it: it has no route back, so its packets may be forged\n")
		return
	}
	var offences []string
	if traps != "" && a.retries > 1 {
		offences = append(offences, fmt.Sprintf("%d packets to trap ports within %s", a.retries, text.Duration(a.retryTime)))
	} else if traps != "" {
		offences = append(offences, "a packet to a trap port")
	}
	if missing := a.ScanPorts - len(a.ProbedPorts); a.ScanPorts > 0 && missing <= 1 {
		offences = append(offences, "a packet to one more closed port")
	} else if a.ScanPorts > 0 {
		offences = append(offences, fmt.Sprintf("packets to %d more closed ports within %s", missing, text.Duration(a.scanWindow)))
	}
	what := "it"
	if !a.Source.IsSingleIP() {
		what = "its network " + a.Source.String()
	}
	p.print("  %s would ban %s for %s (tier %d)\n", text.Enumerate(offences, "or"), what, next, a.NextTier)
	if a.ArmedInSeconds > 0 {
		p.print("  but nothing bans before the traps are armed, in %s\n", text.ShortDuration(time.Duration(a.ArmedInSeconds)))
	}
	if traps != "" {
		p.print("  traps: %s\n", traps)
	}
}
