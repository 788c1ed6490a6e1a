package ruleset

import (
	"fmt"
	"slices"
	"time"
)

// Knock is a sequence of TCP ports. A source that asks for them in turn is
// never banned nor dropped for some time, whether it is banned or not: SYNs to
// them are looked at before any is dropped, and are never an offence. A SYN to
// any other port in between, or to one of them out of turn, ends the attempt.
type Knock struct {
	// TCP are the ports in their order, [MinKnocks] to [MaxKnocks] distinct ones
	// that do not just follow each other, as they do in a scan; none turns this
	// off.
	TCP []uint16
	// Within is the time within which each knock must follow the one before, at
	// most [MaxKnockWithin].
	Within time.Duration
	// Allow is for how long the source is let in: its full address, for IPv6 too.
	Allow time.Duration
}

// Limits of a Knock.
const (
	MinKnocks = 2
	MaxKnocks = 8 // each is a set, which a SYN to a knock port asks
	// MaxKnockWithin bounds how long the table remembers the beginning of a
	// sequence.
	MaxKnockWithin = 10 * time.Minute
)

func (k Knock) validate(
	bad func(field, format string, args ...any), duration func(field string, d, low, high time.Duration),
) {
	if len(k.TCP) == 0 {
		return
	}
	const field = "Knock.TCP"
	if n := len(k.TCP); n < MinKnocks || n > MaxKnocks {
		bad(field, "%d ports: want %d to %d, or none", n, MinKnocks, MaxKnocks)
	}
	up, down := true, true
	for i, port := range k.TCP {
		switch {
		case port == 0:
			bad(field, "0 is not a port from 1 to 65535")
		case slices.Contains(k.TCP[:i], port):
			bad(field, "%d stands twice: want distinct ports", port)
		}
		if i > 0 {
			up, down = up && port == k.TCP[i-1]+1, down && port == k.TCP[i-1]-1
		}
	}
	if len(k.TCP) > 1 && (up || down) {
		bad(field, "%d to %d one after the other: a scan would knock; want an order that a scan does not have",
			k.TCP[0], k.TCP[len(k.TCP)-1])
	}
	duration("Knock.Within", k.Within, MinBanTime, MaxKnockWithin)
	duration("Knock.Allow", k.Allow, MinBanTime, MaxBanTime)
}

func (s Spec) knocks() bool { return len(s.Knock.TCP) > 0 }

// knockPorts are the ports of the sequence, as those of traps are listed.
func (k Knock) ports() (out []Ports) {
	for _, port := range k.TCP {
		out = append(out, Ports{port, port})
	}
	return out
}

// knock looks at what opens a connection, before it is dropped if its source is
// banned. The sets are filled from the first on: who is in one is in the first
// one, which is therefore all that a packet to another port asks.
func (c *compiler) knock() {
	last := len(c.Knock.TCP) // its set is that of those who are let in
	on := goTo(chainEarlyOpening)
	add := func(f family, stage int) string {
		if stage == last {
			return element("update", f.knocked(), f.whole().saddr(), c.Knock.Allow)
		}
		return element("update", f.knock(stage), f.whole().saddr(), c.Knock.Within)
	}
	forget := func(f family, from int) (statements []string) {
		for stage := from; stage < last; stage++ {
			statements = append(statements, element("delete", f.knock(stage), f.whole().saddr(), 0))
		}
		return statements
	}
	end := func() {
		for _, f := range families {
			c.rule(append([]string{f.whole().in(f.knock(1))}, forget(f, 1)...)...)
		}
		c.rule(on)
	}
	c.chain(chainKnock)
	c.rule(dportIn(anyProtocol, setKnockTCP), goTo(chainKnockPort))
	end()

	c.chain(chainKnockPort)
	c.rule("fib daddr type != local", on)
	for stage := last; stage >= 1; stage-- {
		for _, f := range families {
			s := f.whole()
			statements := []string{fmt.Sprintf("th dport %d", c.Knock.TCP[stage-1])}
			switch {
			case stage == last:
				statements = append(append(statements, s.in(f.knock(stage-1)), add(f, stage)), forget(f, 1)...)
			case stage == 1:
				statements = append(append(statements, forget(f, 2)...), add(f, 1))
			default:
				// A packet that is sent again is no harm, but one out of turn is. The
				// first set is renewed last, so that it outlasts this one.
				statements = append(statements, s.in(f.knock(stage-1)))
				if stage+1 < last {
					statements = append(statements, s.notIn(f.knock(stage+1)))
				}
				statements = append(statements, add(f, stage), add(f, 1))
			}
			c.rule(append(statements, on)...)
		}
	}
	end()
}
