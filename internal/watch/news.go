package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/ruleset"
)

// News is one thing worth reporting.
type News struct {
	Kind   Kind
	Source netip.Prefix
	// Place is where that is, as far as it is known.
	Place geo.Place
	// Uses is the TCP port of a service of this host that the source of an
	// offence was connected to when it was banned, 0 if to none.
	Uses uint16
	// Step is the step of the ladder that the source was banned by, 0 if by
	// none, and Offences how many are on record, this one included.
	Step     int
	Offences int
	Cause    ruleset.Cause
	// Proto and Port are those of a packet of the offence; 0 if not known.
	Proto uint8
	Port  uint16
	// At is when an offence was, and Before when the source offended the time
	// before; 0 if that is not known.
	At, Before book.Moment
	// Until is when the ban ends, unless it is Forever; 0 if the news is of no
	// ban.
	Until   book.Moment
	Forever bool
	// Comment is what the program that made the ban noted beside it.
	Comment string
	// Count is the number of bans that were Restored, of offences that led to no
	// ban, or, if it is not 0, of the many bans or allowances that a command has
	// ended; Source is the prefix of all these then, if it was one.
	Count int
	// Observed reports that the table drops nothing: the source would be banned.
	Observed bool
	// old says that an earlier watcher may have counted the ban.
	old bool
	// What was wrong with a table that was Repaired: "rules, set ban4".
	What string
}

// Kind says what the news is.
type Kind int

// The kinds of news.
const (
	Banned      Kind = iota // a source was banned for its first offence, or a subnet
	Escalated               // a source was banned by a higher step of the ladder
	ByHand                  // another program banned a source, for no offence
	Lifted                  // another program lifted a ban
	Unbanned                // a command lifted a ban
	Allowed                 // a command allowed a prefix
	Disallowed              // a command ended an allowance
	Whitelisted             // another program banned a whitelisted or allowed source: it was lifted
	Restored                // bans that the table lacked were put back
	TableGone               // another program deleted the table
	Repaired                // the table was not what it must be, and was put right
	Removed                 // portmon remove deleted the table
	HeldBack                // offences led to no ban, because there were too many at a time
	Full                    // offences led to no ban, because a set had no room
	Kinds                   // is how many kinds there are
)

var kinds = [...]string{
	"banned", "escalated", "banned by hand", "lifted", "unbanned by hand", "allowed by hand", "disallowed by hand", "whitelisted", "restored",
	"table gone", "repaired", "removed", "held back", "full",
}

// String returns "banned" and the like.
func (k Kind) String() string { return kinds[k] }

// Event returns what happened: "banned" and the like, "would be banned" if it
// was only observed.
func (n *News) Event() string {
	if n.Observed && n.Kind <= ByHand {
		return "would be " + n.Kind.String()
	}
	return n.Kind.String()
}

// KindOf returns the kind of the news of a ban with that cause, by that step.
func KindOf(cause ruleset.Cause, step int) Kind {
	switch {
	case step > 1:
		return Escalated
	case step == 0 && (cause == ruleset.CauseHand || cause == ruleset.CauseOther):
		return ByHand
	}
	return Banned
}

// banNews returns the news of the ban in a row.
func banNews(kind Kind, r book.Row) News {
	n := News{Kind: kind, Source: r.Source, Step: r.Step, Offences: r.Offences, Cause: r.Cause, Comment: r.Comment}
	if n.Forever = r.Timeout == 0; !n.Forever {
		n.Until = r.Until
	}
	return n
}

// offenceNews returns the news of the offence that a row was last banned for.
// before is the row as it was until then.
func offenceNews(r, before book.Row) News {
	kind := Banned
	if r.Step > 1 {
		kind = Escalated
	}
	n := banNews(kind, r)
	n.Proto, n.Port, n.At, n.Before = r.Proto, r.Port, r.Last, before.Last
	return n
}
