package notice

import (
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
)

// notice is what is sent.
type notice struct {
	title, message string
	priority       int      // 1 to 5, as ntfy has them
	tags           []string // the first is the name of an emoji
	host           string
	count          int    // of events
	event          *Event // if it is only one
}

// compose turns what was kept into a notice from a host, whose name may be
// empty.
func (d *digest) compose(host string) notice {
	n := notice{host: host, count: d.total, priority: d.priority(), tags: []string{d.emoji(), "portmon"}}
	if d.total == 1 {
		e := d.last
		n.event, n.title, n.message = &e, e.headline(), e.sentence()
	} else {
		n.title, n.message = d.headline(), d.summary()
	}
	if host != "" {
		n.title = host + ": " + n.title
	}
	return n
}

// headline returns "203.0.113.7 banned" and the like.
func (e *Event) headline() string {
	switch e.Kind {
	case watch.Full:
		return "no room for bans"
	case watch.Repaired:
		return "table repaired"
	case watch.Restored:
		return count(max(1, e.Count)) + " restored"
	case watch.TableGone:
		return "table gone"
	case watch.Removed:
		return "table removed"
	default:
		return strings.TrimSpace(e.subject() + " " + e.Kind.String())
	}
}

const (
	fullText     = " banned nobody, as a set is full: the packets are still dropped"
	goneText     = "the table was deleted: until it is back nobody is banned; the bans are remembered"
	repairedText = "the table was not what the configuration says, and was put right"
	removedText  = "the table was deleted by portmon remove: nobody is banned"
)

// sentence returns all that there is to say of one event.
func (e *Event) sentence() string {
	var b strings.Builder
	switch e.Kind {
	case watch.Full:
		return text.Plural(max(1, e.Count), "offence") + fullText
	case watch.Repaired:
		return repairedText + optional(": ", e.Wrong)
	case watch.TableGone:
		return goneText
	case watch.Removed:
		return removedText
	case watch.Restored:
		return text.Plural(max(1, e.Count), "ban") + " restored"
	case watch.Escalated:
		b.WriteString(e.subject() + " escalated to tier " + count(e.Tier) + ", banned" + e.duration())
		if e.Offences > 0 {
			b.WriteString(" after " + text.Plural(e.Offences, "offence"))
		}
	case watch.Lifted:
		b.WriteString(e.headline())
	case watch.Whitelisted:
		b.WriteString(e.headline() + ": its ban was lifted")
	default:
		b.WriteString(e.headline() + e.duration())
	}
	b.WriteString(optional(": ", portName(e.Proto, e.Port)))
	if e.Kind == watch.ByHand || e.Kind == watch.Lifted {
		b.WriteString(optional(": ", e.Reason))
	}
	return b.String()
}

// duration returns " for 8h", " forever", or "" if that is not known.
func (e *Event) duration() string {
	d := e.Until.Sub(e.Time)
	switch {
	case e.Forever:
		return " forever"
	case e.Until.IsZero() || d <= 0:
		return ""
	case d >= 24*time.Hour:
		d = d.Round(time.Hour)
	case d >= 10*time.Minute:
		d = d.Round(time.Minute)
	default:
		d = max(d.Round(time.Second), time.Second)
	}
	return " for " + text.Duration(d)
}

// optional returns s behind a text that belongs to it, or nothing.
func optional(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

func count(n int) string { return strconv.Itoa(n) }
