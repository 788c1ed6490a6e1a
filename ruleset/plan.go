package ruleset

import (
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

// Plan is what makes the kernel's table the wanted one: the operations of one
// transaction, in order. An empty plan means that the kernel holds what is
// wanted.
type Plan struct {
	Table      *Table
	generation uint32
	ops        []operation
	// Created reports that there was no table before.
	Created bool
	// Stuck says of sets what the kernel did not change when it was asked to.
	// Kernels before 6.1's stable series ignore a new timeout of a live set,
	// some later ones a new size. It is known when the same plan is made again.
	Stuck []string
	// Lifted are the bans that the plan takes back because their source is
	// whitelisted now.
	Lifted []Entry

	tidies bool
}

// operation is one change, which can be encoded and written.
type operation struct {
	encode func(tx *nftset.Tx) error
	write  func(w *errWriter)
	what   string // for the summary: "whitelist4", "rules", "timeout of ban4"
	ahead  bool   // must be committed before the others
}

// Empty reports whether there is nothing to do.
func (p *Plan) Empty() bool { return len(p.ops) == 0 }

// Current reports whether the kernel's table does what it is to do. It does
// also while rules ask a set of prefixes whose last ban is over: nothing
// deletes them at that moment, and they only cost time. And it does while it
// lacks a network of this host: addresses come and go.
func (p *Plan) Current() bool { return p.Empty() || p.tidies || p.OnlyLearns() }

// Summary names what the plan changes, each thing once.
func (p *Plan) Summary() []string {
	var out []string
	for _, op := range p.ops {
		if op.what != "" && !slices.Contains(out, op.what) {
			out = append(out, op.what)
		}
	}
	return out
}

// Write writes the operations as nft commands, one a line, and returns the
// first error of w.
func (p *Plan) Write(w io.Writer) error {
	ew := &errWriter{w: w}
	for _, op := range p.ops {
		op.write(ew)
	}
	return ew.err
}

// String returns the operations as nft commands, one a line.
func (p *Plan) String() string {
	var b strings.Builder
	p.Write(&b)
	return b.String()
}

// transactions encodes the plan: what must be committed ahead, usually nothing,
// and the rest. If there is something ahead, its commit makes the rest
// outdated.
func (p *Plan) transactions() (ahead, rest *nftset.Tx, err error) {
	ahead, rest = &nftset.Tx{Generation: p.generation}, &nftset.Tx{Generation: p.generation}
	for _, op := range p.ops {
		tx := rest
		if op.ahead {
			tx = ahead
		}
		if err := op.encode(tx); err != nil {
			return nil, nil, err
		}
	}
	return ahead, rest, nil
}

func (p *Plan) do(what string, encode func(*nftset.Tx) error, format string, args ...any) {
	write := func(w *errWriter) { w.printf(format+"\n", args...) }
	p.ops = append(p.ops, operation{encode: encode, write: write, what: what})
}

func (p *Plan) addTable() {
	t := p.Table.Table
	p.do("table", func(tx *nftset.Tx) error { tx.AddTable(t); return nil }, "add table %s", t)
}

func (p *Plan) addCounter(name string) {
	t := p.Table.Table
	p.do("counter "+name, func(tx *nftset.Tx) error { return addCounter(tx, t, name) }, "add counter %s %s", t, name)
}

// putSet adds a set, or updates the timeout and size of one that is there.
func (p *Plan) putSet(what string, s *nftset.Set) {
	props := fmt.Sprintf("type %s;", s.Type)
	if s.Flags != 0 {
		props += fmt.Sprintf(" flags %s;", s.Flags)
	}
	if s.Timeout > 0 {
		props += " timeout " + text.Duration(s.Timeout) + ";"
	}
	if s.Size > 0 {
		props += fmt.Sprintf(" size %d;", s.Size)
	}
	p.do(what, func(tx *nftset.Tx) error { tx.AddSet(s); return nil }, "add set %s { %s }", s, props)
}

func (p *Plan) deleteSet(s *nftset.Set) {
	p.do("set "+s.Name, func(tx *nftset.Tx) error { tx.DeleteSet(s); return nil }, "delete set %s", s)
}

func (p *Plan) addIntervals(s *nftset.Set, ivs []nftset.Interval) {
	p.intervals("add", s, ivs, func(tx *nftset.Tx, elems iter.Seq[nftset.Element]) { tx.AddSeq(s, elems) })
}

func (p *Plan) deleteIntervals(s *nftset.Set, ivs []nftset.Interval) {
	p.intervals("delete", s, ivs, func(tx *nftset.Tx, elems iter.Seq[nftset.Element]) { tx.DeleteSeq(s, elems) })
}

func (p *Plan) intervals(
	verb string, s *nftset.Set, ivs []nftset.Interval, encode func(*nftset.Tx, iter.Seq[nftset.Element]),
) {
	if len(ivs) == 0 {
		return
	}
	p.ops = append(p.ops, operation{
		encode: func(tx *nftset.Tx) error { encode(tx, bare(ivs)); return nil },
		write: func(w *errWriter) {
			w.printf("%s element %s { ", verb, s)
			writeIntervals(w, ivs, ", ")
			w.printf(" }\n")
		},
		what: s.Name,
	})
}

// bare yields an element without timeout for each interval.
func bare(ivs []nftset.Interval) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for _, iv := range ivs {
			if !yield(nftset.Element{Interval: iv}) {
				return
			}
		}
	}
}

// addElements adds elements with timeouts.
func (p *Plan) addElements(what string, to *nftset.Set, elems []nftset.Element) {
	if len(elems) == 0 {
		return
	}
	p.do(what, func(tx *nftset.Tx) error { tx.Add(to, elems...); return nil },
		"add element %s { %s }", to, elementsText(elems))
}

// discard deletes elements that may expire before the commit; deleting what is
// not there would fail all of it.
func (p *Plan) discard(what string, from *nftset.Set, keys []nftset.Interval) {
	if len(keys) == 0 {
		return
	}
	elems := slices.Collect(bare(keys))
	text := elementsText(elems)
	p.do(what, func(tx *nftset.Tx) error { tx.Discard(from, elems...); return nil },
		"add element %s { %s }\ndelete element %s { %s }", from, text, from, text)
}

func (p *Plan) flushSet(what string, s *nftset.Set) {
	p.do(what, func(tx *nftset.Tx) error { tx.FlushSet(s); return nil }, "flush set %s", s)
}

// delayTraps keeps the traps of a new table unarmed for a time.
func (p *Plan) delayTraps(d time.Duration) {
	set := &p.Table.set(setStarting).Set
	var elems []nftset.Element
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		elems = append(elems, nftset.Single(nftset.ProtoKey(proto)).For(d))
	}
	p.addElements(setStarting, set, elems)
}

func elementsText(elems []nftset.Element) string {
	texts := make([]string, len(elems))
	for i, el := range elems {
		texts[i] = elementText(el)
	}
	return strings.Join(texts, ", ")
}

func elementText(el nftset.Element) string {
	s := el.Interval.String()
	if el.Timeout > 0 {
		s += " timeout " + text.Duration(el.Timeout)
	}
	if el.Remaining > 0 && el.Remaining != el.Timeout {
		s += " expires " + text.Duration(el.Remaining)
	}
	if el.Comment != "" {
		s += fmt.Sprintf(" comment %q", el.Comment)
	}
	return s
}

func (p *Plan) addChain(c *Chain) {
	t := p.Table.Table
	base := ""
	if c.Hook != nil {
		base = fmt.Sprintf(" { type filter hook %s priority %d; policy accept; }", c.Hook.Name, c.Hook.Priority)
	}
	p.do("chain "+c.Name, func(tx *nftset.Tx) error { return addChain(tx, t, c) }, "add chain %s %s%s", t, c.Name, base)
}

func (p *Plan) deleteChain(name string) {
	t := p.Table.Table
	p.do("chain "+name, func(tx *nftset.Tx) error { return deleteChain(tx, t, name) }, "delete chain %s %s", t, name)
}

func (p *Plan) flushChain(name string) {
	t := p.Table.Table
	p.do("rules", func(tx *nftset.Tx) error { return flushChain(tx, t, name) }, "flush chain %s %s", t, name)
}

func (p *Plan) insertRule(r netRule) {
	t := p.Table.Table
	p.do("rules", func(tx *nftset.Tx) error { return insertRule(tx, t, r.chain, r.Rule) },
		"insert rule %s %s %s", t, r.chain, r.Rule)
}

func (p *Plan) addRules(c *Chain) {
	t := p.Table.Table
	for _, r := range c.Rules {
		p.do("rules", func(tx *nftset.Tx) error { return addRule(tx, t, c.Name, r) }, "add rule %s %s %s", t, c.Name, r)
	}
}

// OnlyLearns reports whether the plan only adds networks of this host that the
// table lacks: except for sources in them, the table does all that it should,
// and no program has changed it.
func (p *Plan) OnlyLearns() bool { return slices.Equal(p.Summary(), []string{setOwn6}) }
