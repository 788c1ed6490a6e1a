package machine

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/ruleset"
)

// compiler compiles one rule for one class.
type compiler struct {
	machines []*Machine
	class    class
	source   *source
	limits   map[limitAt]*limits
	rule     rule
	never    bool // no packet of the class gets past what has been compiled
	reg      registers
}

// limitAt is where a limit is: that of one rule is the same for all classes.
type limitAt struct {
	rule *source
	at   int
}

// compile compiles the chains of all machines to one program. It returns the base
// chains.
func compile(machines []*Machine) (base []*chain, err error) {
	byName := make(map[string]*chain)
	var all []*chain
	for lane, m := range machines {
		for _, ch := range m.chains {
			c := byName[ch.Name]
			if c == nil {
				c = &chain{name: ch.Name}
				byName[ch.Name] = c
				all = append(all, c)
				if ch.Hook != nil {
					c.priority = ch.Hook.Priority
					base = append(base, c)
				}
			}
			if ch.Hook != nil && (ch.Hook.Number != unix.NF_INET_PRE_ROUTING || !ch.Hook.Plain || ch.Hook.Priority != c.priority) {
				return nil, fmt.Errorf("chain %s: its hook, %d, is not known", ch.Name, ch.Hook.Number)
			}
			c.merge(m, lane, ch.Rules)
		}
	}
	slices.SortStableFunc(base, func(a, b *chain) int { return int(a.priority) - int(b.priority) })
	limits := make(map[limitAt]*limits)
	for _, c := range all {
		for i := range c.sources {
			src := &c.sources[i]
			for n, class := range classes {
				out := compiler{machines: machines, class: class, source: src, limits: limits}
				if err := out.compile(byName); err != nil {
					return nil, fmt.Errorf("chain %s: rule %q: %w", c.name, src.first().Text, err)
				}
				if !out.never {
					c.rules[n] = append(c.rules[n], out.rule)
				}
			}
		}
	}
	for _, c := range base {
		if err := c.checkDepth(0); err != nil {
			return nil, err
		}
	}
	return base, nil
}

// maxDepth is NFT_JUMP_STACK_SIZE of include/net/netfilter/nf_tables.h. It
// limits gotos too, so that loops are found.
const maxDepth = 16

func (c *chain) checkDepth(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("chain %s: more than %d chains lead to each other", c.name, maxDepth)
	}
	for _, r := range c.rules[anyPacket] {
		if r.to != nil {
			if err := r.to.checkDepth(depth + 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *compiler) compile(chains map[string]*chain) error {
	out := &c.rule
	out.lanes, out.verdict = c.source.lanes, expr.VerdictContinue
	exprs := c.source.first().Exprs
	for i, e := range exprs {
		v, ok := e.(*expr.Verdict)
		if !ok {
			if err := c.expression(i, e); err != nil {
				return fmt.Errorf("expression %d (%T): %w", i+1, e, err)
			}
			continue
		}
		out.verdict = v.Kind
		switch v.Kind {
		case expr.VerdictAccept, expr.VerdictDrop, expr.VerdictReturn:
		case expr.VerdictGoto, expr.VerdictJump:
			if out.to = chains[v.Chain]; out.to == nil {
				return fmt.Errorf("there is no chain %q", v.Chain)
			}
		default:
			return fmt.Errorf("verdict %d is not known", v.Kind)
		}
		if i != len(exprs)-1 {
			return fmt.Errorf("something is behind the verdict")
		}
	}
	return nil
}

func (c *compiler) do(s step) {
	if s != nil {
		c.rule.steps = append(c.rule.steps, s)
	}
}

// expression compiles the expression in that place of the rule, of which e is
// the one of the first machine.
func (c *compiler) expression(at int, e expr.Any) error {
	switch e := e.(type) {
	case *expr.Meta:
		return c.load(e.Register)(withoutTest(loadMeta(e, c.class)))
	case *expr.Payload:
		return c.load(e.DestRegister)(loadPayload(e, c.class))
	case *expr.Ct:
		return c.load(e.Register)(loadCt(e))
	case *expr.Fib:
		return c.load(e.Register)(withoutTest(loadFib(e)))
	case *expr.Socket:
		return c.load(e.Register)(loadSocket(e))
	case *expr.Bitwise:
		l, err := c.reg.get(e.SourceRegister)
		if err == nil {
			l, err = l.masked(e)
		}
		if err != nil {
			return err
		}
		return c.reg.put(e.DestRegister, l)
	case *expr.Cmp:
		return c.compare(e)
	case *expr.Lookup:
		return c.lookup(e)
	case *expr.Dynset:
		return c.dynset(at, e)
	case *expr.Limit:
		return c.limit(at)
	case *expr.Objref:
		for lane := range c.rule.lanes.each() {
			if e.Type != unix.NFT_OBJECT_COUNTER || c.machines[lane].counters[e.Name] == nil {
				return fmt.Errorf("there is no counter %q", e.Name)
			}
		}
		counters := c.machines[c.rule.lanes.first()].counters[e.Name].by
		c.do(func(p *Packet, ls lanes) lanes {
			counters.add(ls, p.length)
			return ls
		})
		return nil
	case *expr.Log:
		prefix := string(e.Data)
		c.do(func(p *Packet, ls lanes) lanes {
			for lane := range ls.each() {
				p.host.report(lane).Log = prefix
			}
			return ls
		})
		return nil
	}
	return errUnknown
}

func withoutTest(l load, err error) (load, step, error) { return l, nil, err }

func (c *compiler) limit(at int) error {
	all := c.limits[limitAt{c.source, at}]
	if all == nil {
		all = new(limits)
		for lane := range c.rule.lanes.each() {
			l, err := newLimit(c.source.of[lane].Exprs[at].(*expr.Limit))
			if err != nil {
				return err
			}
			all.add(lane, l)
		}
		c.limits[limitAt{c.source, at}] = all
	}
	c.do(func(p *Packet, ls lanes) lanes { return all.take(ls, p.Now) })
	return nil
}

// load notes what is loaded, after a test whether it can be.
func (c *compiler) load(register uint32) func(load, step, error) error {
	return func(l load, test step, err error) error {
		if err != nil {
			return err
		}
		c.do(test)
		return c.reg.put(register, l)
	}
}

func (c *compiler) compare(e *expr.Cmp) error {
	l, err := c.reg.get(e.Register)
	if err != nil {
		return err
	}
	n := len(e.Data)
	if n == 0 || n > l.length || l.number && n != l.length {
		return errUnknown
	}
	mask, want := ones(n), wordsAt(e.Data)
	for i := range l.mask {
		l.mask[i] &= mask[i]
	}
	if l.constant && (e.Op == expr.CmpOpEq || e.Op == expr.CmpOpNeq) {
		hi, lo := l.read()(nil)
		c.never = c.never || (words{hi, lo} == want) != (e.Op == expr.CmpOpEq)
		return nil
	}
	read := l.read()
	order := func(p *Packet) int {
		hi, lo := read(p)
		return words{hi, lo}.compare(want)
	}
	switch {
	case e.Op == expr.CmpOpEq && want[1] == 0 && l.mask[1] == 0:
		value := want[0]
		c.do(func(p *Packet, ls lanes) lanes { hi, _ := read(p); return ls.when(hi == value) })
	case e.Op == expr.CmpOpEq:
		c.do(func(p *Packet, ls lanes) lanes { return ls.when(order(p) == 0) })
	case e.Op == expr.CmpOpNeq:
		c.do(func(p *Packet, ls lanes) lanes { return ls.when(order(p) != 0) })
	case e.Op == expr.CmpOpGte && !l.number:
		c.do(func(p *Packet, ls lanes) lanes { return ls.when(order(p) >= 0) })
	case e.Op == expr.CmpOpLte && !l.number:
		c.do(func(p *Packet, ls lanes) lanes { return ls.when(order(p) <= 0) })
	default:
		return errUnknown
	}
	return nil
}

// key reads the key of a set: as one word if it has at most 8 bytes, else as
// words.
type key struct {
	word  func(p *Packet) uint64
	words func(p *Packet) words
}

// set returns a set of the first table, and the key that begins at a register.
// The sets of that name in the other tables are of the same type.
func (c *compiler) set(name string, register uint32) (s *Set, k key, err error) {
	for lane := range c.rule.lanes.each() {
		of := c.machines[lane].sets[name]
		switch {
		case of == nil:
			return nil, key{}, fmt.Errorf("there is no set %q", name)
		case s == nil:
			s = of
		case of.Type != s.Type || of.isStatic() != s.isStatic():
			return nil, key{}, fmt.Errorf("set %s is not the same everywhere", name)
		}
	}
	first, second, err := c.reg.key(register, s.Type.Len())
	if err != nil {
		return nil, key{}, fmt.Errorf("the key of %s: %w", name, err)
	}
	k = key{
		word:  func(p *Packet) uint64 { hi, _ := first(p); return hi },
		words: func(p *Packet) words { hi, lo := first(p); return words{hi, lo} },
	}
	if second == nil {
		return s, k, nil
	}
	port := *second
	k.word = func(p *Packet) uint64 { // an IPv4 address and a port
		hi, _ := first(p)
		low, _ := port(p)
		return hi | low>>32
	}
	k.words = func(p *Packet) words {
		hi, lo := first(p)
		low, _ := port(p)
		return words{hi, lo, low}
	}
	if s.Type.Len() <= 8 {
		k.words = func(p *Packet) words { return words{k.word(p)} }
	}
	return s, k, nil
}

func (c *compiler) lookup(e *expr.Lookup) error {
	if e.IsDestRegSet {
		return errUnknown
	}
	set, key, err := c.set(e.SetName, e.SourceRegister)
	if err != nil {
		return err
	}
	invert, word, long := e.Invert, key.word, key.words
	switch s := set.set.(type) {
	case *hash[uint64]:
		c.do(lookup(s.store, word, invert))
	case *bitmap:
		c.do(func(p *Packet, ls lanes) lanes { return ls.when(s.has(word(p)) != invert) })
	case *intervals:
		if set.Type.Len() <= 8 {
			c.do(func(p *Packet, ls lanes) lanes { return ls.when(s.has(word(p), p.Now) != invert) })
			break
		}
		c.do(func(p *Packet, ls lanes) lanes { return ls.when(s.contains(long(p), p.Now) != invert) })
	case *hash[words]:
		c.do(lookup(s.store, long, invert))
	}
	return nil
}

func lookup[K oneOf](st *store[K], key func(*Packet) K, invert bool) step {
	return func(p *Packet, ls lanes) lanes {
		var in lanes
		if len(st.rows) > 0 { // else the key need not be put together
			in = st.living(key(p), p.Now)
		}
		if invert {
			return ls &^ in
		}
		return ls & in
	}
}

// The operations of enum nft_dynset_ops of
// include/uapi/linux/netfilter/nf_tables.h.
const (
	dynsetAdd    = unix.NFT_DYNSET_OP_ADD
	dynsetUpdate = unix.NFT_DYNSET_OP_UPDATE
	dynsetDelete = 2
)

func (c *compiler) dynset(at int, e *expr.Dynset) error {
	if e.SrcRegData != 0 || e.Invert || len(e.Exprs) > 1 || e.Operation > dynsetDelete {
		return errUnknown
	}
	desc, key, err := c.set(e.SetName, e.SrcRegKey)
	if err != nil {
		return err
	}
	how := &adding{make([]time.Duration, len(c.machines)), make([]*limit, len(c.machines)), e.Operation == dynsetUpdate}
	for lane := range c.rule.lanes.each() {
		of := c.source.of[lane].Exprs[at].(*expr.Dynset)
		how.timeouts[lane] = cmp.Or(of.Timeout, c.machines[lane].sets[e.SetName].Timeout)
		for _, inner := range of.Exprs {
			le, ok := inner.(*expr.Limit)
			if !ok {
				return fmt.Errorf("%T of an element is not known", inner)
			}
			if how.limits[lane], err = newLimit(le); err != nil {
				return err
			}
		}
	}
	var add step
	switch s := desc.set.(type) {
	case *hash[uint64]:
		add = dynsetOf(s.store, e.Operation, how, key.word)
	case *hash[words]:
		add = dynsetOf(s.store, e.Operation, how, key.words)
	default:
		return fmt.Errorf("set %s cannot be added to", e.SetName)
	}
	c.do(add)
	if role, _ := ruleset.RoleOf(desc.Name); role.Bans() && e.Operation != dynsetDelete {
		c.do(func(p *Packet, ls lanes) lanes {
			for lane := range ls.each() {
				v := p.host.report(lane)
				v.Set, v.Ban = desc.Name, key.words(p).key(desc.Type)
			}
			return ls
		})
	}
	return nil
}

func dynsetOf[K oneOf](st *store[K], op uint32, how *adding, key func(*Packet) K) step {
	if op == dynsetDelete {
		return func(p *Packet, ls lanes) lanes {
			st.delete(key(p), ls)
			return ls
		}
	}
	return func(p *Packet, ls lanes) lanes { return st.put(key(p), p.Now, ls, how) }
}
