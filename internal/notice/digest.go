package notice

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
)

const (
	maxEvents  = 5    // that are described
	maxName    = 64   // characters of a host's name
	maxReason  = 200  // characters of foreign text in an event
	maxMessage = 1000 // characters; ntfy makes a file of more than 4096 bytes

	low, standard, high = 2, 3, 4 // the priorities of ntfy that are used
)

// kinds are what notices say about each kind of news: the priority, the emoji
// by its name in ntfy, a title if the news concerns no single source, and what
// follows from it. The most urgent are last. Hosts on the internet are probed
// all day, so a ban is of low priority unless it is by the last step of the
// ladder.
var kinds = [watch.Kinds]struct {
	priority           int
	emoji, title, text string
}{
	watch.Banned:      {low, "no_entry", "", ""},
	watch.Escalated:   {low, "no_entry", "", ""},
	watch.ByHand:      {standard, "no_entry_sign", "", ""},
	watch.Lifted:      {standard, "unlock", "", ""},
	watch.Unbanned:    {low, "unlock", "", ""},
	watch.Allowed:     {low, "key", "", ""},
	watch.Disallowed:  {low, "lock", "", ""},
	watch.Whitelisted: {standard, "unlock", "", "its ban was lifted"},
	watch.Restored:    {standard, "recycle", "bans restored", ""},
	watch.TableGone:   {high, "rotating_light", "table gone", "no source is banned until it returns; bans are kept"},
	watch.Repaired:    {standard, "warning", "table repaired", ""},
	watch.Removed:     {standard, "warning", "table removed", "portmon remove was called, and no source is banned"},
	watch.HeldBack:    {standard, "ocean", "bans held back", "a flood of new offenders; the packets are dropped all the same"},
	watch.Full:        {high, "warning", "no room for bans", "a set is full; the packets are dropped all the same"},
}

// clean makes foreign text fit for headers, the environment of a program,
// telephones and the journal.
func clean(s string, limit int) string {
	return text.Printable(text.Shorten(strings.TrimSpace(s), limit))
}

// event is news, when it was reported, and where its source is.
type event struct {
	watch.News
	at    book.Clock
	place geo.Place
}

// title returns "203.0.113.7 banned" or "table gone", and "203.0.113.7 would be
// banned" if that was only observed.
func (e *event) title() string {
	source := text.Prefix(e.Source)
	if e.Count > 0 {
		source = text.Join(" in ", text.Plural(e.Count, "source"), source)
	}
	return cmp.Or(kinds[e.Kind].title, strings.TrimSpace(source+" "+e.Event()))
}

// describe says all about an event in one line.
func (e *event) describe() string {
	line, after := e.title(), kinds[e.Kind].text
	switch e.Kind {
	case watch.HeldBack, watch.Full:
		if e.Observed {
			after, _, _ = strings.Cut(after, ";")
		}
		line = text.Plural(e.Count, "offence") + " led to no ban"
	case watch.Restored:
		line = text.Plural(e.Count, "ban") + " restored"
	case watch.Escalated:
		line += " to tier " + strconv.Itoa(e.Step) + ", banned" + e.duration()
		if e.Offences > 0 {
			line += " after " + text.Plural(e.Offences, "offence")
		}
	default:
		line += e.duration()
	}
	line = text.Join(": ", line, after, e.What, text.Port(e.Proto, e.Port), e.Comment)
	if where := e.place.String(); where != "" {
		line += " (" + where + ")"
	}
	return line
}

// duration returns " for 8h", " forever", or "" if that is not known. It is
// rounded, because a ban is reported a moment after it was made.
func (e *event) duration() string {
	switch d := e.Until.Sub(e.at.Boot); {
	case e.Forever:
		return " forever"
	case e.Until == 0 || d <= 0:
		return ""
	default:
		return " for " + text.ShortDuration(max(d, time.Second))
	}
}

// digest is what is kept of events until they are sent. Its size is bounded,
// whatever comes.
type digest struct {
	total, priority int
	counts          [watch.Kinds][2]int // those that were only observed behind the others
	recent          []event             // the last first
}

func (d *digest) add(e event, steps int) {
	e.Comment, e.What = clean(e.Comment, maxReason), clean(e.What, maxReason)
	d.total++
	if e.Observed {
		d.counts[e.Kind][1] += max(e.Count, 1)
	} else {
		d.counts[e.Kind][0] += max(e.Count, 1)
	}
	d.priority = max(d.priority, kinds[e.Kind].priority)
	if e.Kind == watch.Escalated && e.Step == steps {
		d.priority = max(d.priority, standard)
	}
	d.recent = slices.Insert(d.recent, 0, e)
	d.recent = d.recent[:min(len(d.recent), maxEvents)]
}

// notice is what is sent.
type notice struct {
	title, message string
	priority       int // 1 to 5, as ntfy has them
	emoji, host    string
	count          int   // of events
	event          event // if it is only one
}

// compose makes a notice from a host, whose name may be "". The places are looked
// up here and not when something happens, as that may wait for a disk.
func (d *digest) compose(host string, places *geo.DB) *notice {
	n := &notice{priority: d.priority, host: host, count: d.total}
	var titles, lines []string
	for kind, k := range slices.Backward(kinds[:]) {
		for i, count := range d.counts[kind] {
			if count > 0 {
				n.emoji = cmp.Or(n.emoji, k.emoji)
				some := watch.News{Kind: watch.Kind(kind), Observed: i == 1}
				titles = append(titles, cmp.Or(k.title, fmt.Sprint(count, " ", some.Event())))
			}
		}
	}
	for i := range d.recent {
		d.recent[i].place = places.Of(d.recent[i].Source)
	}
	if d.total == 1 {
		n.event = d.recent[0]
		titles = []string{n.event.title()}
	}
	for _, e := range d.recent {
		lines = append(lines, e.describe())
	}
	if more := d.total - len(d.recent); more > 0 {
		lines = append(lines, fmt.Sprint("and ", more, " more"))
	}
	n.title = text.Join(": ", host, strings.Join(titles, ", "))
	n.message = text.Shorten(strings.Join(lines, "\n"), maxMessage)
	return n
}
