package notice

import (
	"strings"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
)

// ranking is the order in which a summary tells of the kinds: what is most
// pressing first.
var ranking = [watch.Kinds]watch.Kind{watch.TableGone, watch.Removed, watch.Repaired, watch.Full, watch.Restored, watch.Escalated, watch.ByHand, watch.Whitelisted, watch.Lifted, watch.Banned}

// emojis are the names by which ntfy knows them.
var emojis = [watch.Kinds]string{
	watch.Banned: "no_entry", watch.Escalated: "no_entry", watch.ByHand: "no_entry_sign", watch.Lifted: "unlock", watch.Whitelisted: "unlock",
	watch.Full: "warning", watch.Restored: "recycle", watch.TableGone: "rotating_light", watch.Repaired: "warning", watch.Removed: "warning",
}

// headline returns "3 escalated, 1000 banned" and the like.
func (d *digest) headline() string {
	var parts []string
	for _, k := range ranking {
		switch g := &d.groups[k]; {
		case g.count == 0:
		case k == watch.TableGone, k == watch.Removed, k == watch.Repaired, k == watch.Full:
			parts = append(parts, g.named[0].headline())
		default:
			parts = append(parts, count(g.count)+" "+k.String())
		}
	}
	return strings.Join(parts, ", ")
}

// summary returns a line for each kind of event, and one for the ports.
func (d *digest) summary() string {
	var lines []string
	for _, k := range ranking {
		if g := &d.groups[k]; g.count > 0 {
			lines = append(lines, g.summary(k))
		}
	}
	if ports := d.ports.String(); ports != "" {
		lines = append(lines, "offences at "+ports)
	}
	return strings.Join(lines, "\n")
}

func (g *group) summary(k watch.Kind) string {
	var names []string
	for i := range g.named {
		e := &g.named[i]
		name := e.subject()
		switch k {
		case watch.Repaired:
			name = e.Wrong
		case watch.Escalated:
			name += " to tier " + count(e.Tier)
		}
		if name != "" {
			names = append(names, name)
		}
	}
	switch k {
	case watch.TableGone:
		return goneText
	case watch.Removed:
		return removedText
	case watch.Repaired:
		return repairedText + optional(": ", strings.Join(names, "; "))
	case watch.Full:
		return text.Plural(g.count, "offence") + fullText
	case watch.Restored:
		return count(g.count) + " restored"
	default:
		return count(g.count) + " " + k.String() + optional(": ", enumerate(names, g.count))
	}
}

// The priorities that are used. Whoever has ntfy on a telephone sees the first
// on looking, hears the second, and is shaken by the third.
const (
	low      = 2
	standard = 3
	high     = 4
)

// priority returns the highest that any event deserves. Hosts on the internet
// are probed all day: that is nothing to be disturbed for.
func (d *digest) priority() int {
	p := low
	for k := range d.groups {
		g := &d.groups[k]
		switch watch.Kind(k) {
		case watch.Banned:
		case watch.Escalated:
			for _, e := range g.named { // among the worst are those that have come to the last tier
				if e.Last {
					p = max(p, standard)
				}
			}
		case watch.Full, watch.TableGone:
			if g.count > 0 {
				p = high
			}
		default:
			if g.count > 0 {
				p = max(p, standard)
			}
		}
	}
	return p
}

// emoji returns the sign of what is most pressing.
func (d *digest) emoji() string {
	for _, k := range ranking {
		if d.groups[k].count > 0 {
			return emojis[k]
		}
	}
	return emojis[watch.Banned]
}
