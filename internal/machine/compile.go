package machine

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/ruleset"
)

// step is a part of a rule. It reports whether the rule goes on.
type step func(p *Packet) bool

// rule is a compiled rule.
type rule struct {
	steps   []step
	verdict expr.VerdictKind
	to      *chain
}

type chain struct {
	name     string
	priority int32 // of a base chain
	rules    []rule
}

// compiler compiles one rule.
type compiler struct {
	m     *Machine
	reg   registers
	steps []step
}

// compile compiles the rules of all chains.
func (m *Machine) compile(chains []ruleset.Chain) error {
	byName := make(map[string]*chain)
	for _, ch := range chains {
		c := &chain{name: ch.Name}
		byName[ch.Name] = c
		if ch.Hook != nil {
			if ch.Hook.Number != unix.NF_INET_PRE_ROUTING || !ch.Hook.Plain {
				return fmt.Errorf("chain %s: its hook, %d, is not known", ch.Name, ch.Hook.Number)
			}
			c.priority = ch.Hook.Priority
			m.base = append(m.base, c)
		}
	}
	slices.SortStableFunc(m.base, func(a, b *chain) int { return int(a.priority) - int(b.priority) })
	for _, ch := range chains {
		c := byName[ch.Name]
		for _, r := range ch.Rules {
			compiled, err := m.compileRule(r, byName)
			if err != nil {
				return fmt.Errorf("chain %s: rule %q: %w", ch.Name, r.Text, err)
			}
			c.rules = append(c.rules, compiled)
		}
	}
	for _, c := range m.base {
		if err := c.checkDepth(0); err != nil {
			return err
		}
	}
	return nil
}

// maxDepth is NFT_JUMP_STACK_SIZE of include/net/netfilter/nf_tables.h. It
// limits gotos too, so that loops are found.
const maxDepth = 16

func (c *chain) checkDepth(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("chain %s: more than %d chains lead to each other", c.name, maxDepth)
	}
	for _, r := range c.rules {
		if r.to != nil {
			if err := r.to.checkDepth(depth + 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Machine) compileRule(r ruleset.Rule, chains map[string]*chain) (rule, error) {
	c := compiler{m: m}
	out := rule{verdict: expr.VerdictContinue}
	for i, e := range r.Exprs {
		v, ok := e.(*expr.Verdict)
		if !ok {
			if err := c.expression(e); err != nil {
				return rule{}, fmt.Errorf("expression %d (%T): %w", i+1, e, err)
			}
			continue
		}
		out.verdict = v.Kind
		switch v.Kind {
		case expr.VerdictAccept, expr.VerdictDrop, expr.VerdictReturn:
		case expr.VerdictGoto, expr.VerdictJump:
			if out.to = chains[v.Chain]; out.to == nil {
				return rule{}, fmt.Errorf("there is no chain %q", v.Chain)
			}
		default:
			return rule{}, fmt.Errorf("verdict %d is not known", v.Kind)
		}
		if i != len(r.Exprs)-1 {
			return rule{}, fmt.Errorf("something is behind the verdict")
		}
	}
	out.steps = c.steps
	return out, nil
}

func (c *compiler) do(s step) {
	if s != nil {
		c.steps = append(c.steps, s)
	}
}

func (c *compiler) expression(e expr.Any) error {
	switch e := e.(type) {
	case *expr.Meta:
		return c.load(e.Register)(withoutTest(loadMeta(e)))
	case *expr.Payload:
		return c.load(e.DestRegister)(loadPayload(e))
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
		return c.dynset(e)
	case *expr.Limit:
		l, err := newLimit(e)
		if err != nil {
			return err
		}
		tokens := l.full(0) // it is full at any later time, too
		c.do(func(p *Packet) bool { return l.take(&tokens, p.Now) })
		return nil
	case *expr.Objref:
		counter := c.m.counters[e.Name]
		if e.Type != unix.NFT_OBJECT_COUNTER || counter == nil {
			return fmt.Errorf("there is no counter %q", e.Name)
		}
		c.do(func(p *Packet) bool {
			counter.Packets++
			counter.Bytes += p.length
			return true
		})
		return nil
	case *expr.Log:
		prefix := string(e.Data)
		c.do(func(p *Packet) bool {
			p.logged = prefix
			return true
		})
		return nil
	}
	return errUnknown
}

func withoutTest(l load, err error) (load, step, error) { return l, nil, err }

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
	read := l.read()
	order := func(p *Packet) int {
		hi, lo := read(p)
		return words{hi, lo}.compare(want)
	}
	switch {
	case e.Op == expr.CmpOpEq && want[1] == 0 && l.mask[1] == 0:
		value := want[0]
		c.do(func(p *Packet) bool { hi, _ := read(p); return hi == value })
	case e.Op == expr.CmpOpEq:
		c.do(func(p *Packet) bool { return order(p) == 0 })
	case e.Op == expr.CmpOpNeq:
		c.do(func(p *Packet) bool { return order(p) != 0 })
	case e.Op == expr.CmpOpGte && !l.number:
		c.do(func(p *Packet) bool { return order(p) >= 0 })
	case e.Op == expr.CmpOpLte && !l.number:
		c.do(func(p *Packet) bool { return order(p) <= 0 })
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

// set returns a set of the table, and the key that begins at a register.
func (c *compiler) set(name string, register uint32) (*Set, key, error) {
	s := c.m.sets[name]
	if s == nil {
		return nil, key{}, fmt.Errorf("there is no set %q", name)
	}
	first, second, err := c.reg.key(register, s.Type.Len())
	if err != nil {
		return nil, key{}, fmt.Errorf("the key of %s: %w", name, err)
	}
	k := key{
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
		c.do(func(p *Packet) bool { return s.has(word(p), p.Now) != invert })
	case *bitmap:
		c.do(func(p *Packet) bool { return s.has(word(p)) != invert })
	case *intervals:
		if set.Type.Len() <= 8 {
			c.do(func(p *Packet) bool { return s.has(word(p), p.Now) != invert })
			break
		}
		c.do(func(p *Packet) bool { return s.contains(long(p), p.Now) != invert })
	case *hash[words]:
		c.do(func(p *Packet) bool { return s.has(long(p), p.Now) != invert })
	}
	return nil
}

// The operations of enum nft_dynset_ops of
// include/uapi/linux/netfilter/nf_tables.h.
const (
	dynsetAdd    = unix.NFT_DYNSET_OP_ADD
	dynsetUpdate = unix.NFT_DYNSET_OP_UPDATE
	dynsetDelete = 2
)

func (c *compiler) dynset(e *expr.Dynset) error {
	if e.SrcRegData != 0 || e.Invert || len(e.Exprs) > 1 || e.Operation > dynsetDelete {
		return errUnknown
	}
	var l *limit
	for _, inner := range e.Exprs {
		le, ok := inner.(*expr.Limit)
		if !ok {
			return fmt.Errorf("%T of an element is not known", inner)
		}
		var err error
		if l, err = newLimit(le); err != nil {
			return err
		}
	}
	desc, key, err := c.set(e.SetName, e.SrcRegKey)
	if err != nil {
		return err
	}
	timeout := e.Timeout
	if timeout == 0 {
		timeout = desc.Timeout
	}
	var add step
	switch s := desc.set.(type) {
	case *hash[uint64]:
		add = dynsetOf(s, e.Operation, timeout, l, key.word)
	case *hash[words]:
		add = dynsetOf(s, e.Operation, timeout, l, key.words)
	default:
		return fmt.Errorf("set %s cannot be added to", e.SetName)
	}
	if role, _ := ruleset.RoleOf(desc.Name); role.Bans() && e.Operation != dynsetDelete {
		inner := add
		add = func(p *Packet) bool {
			if !inner(p) {
				return false
			}
			p.added = Added{desc, key.words(p)}
			return true
		}
	}
	c.do(add)
	return nil
}

func dynsetOf[K oneOf](s *hash[K], op uint32, timeout time.Duration, l *limit, key func(*Packet) K) step {
	if op == dynsetDelete {
		return func(p *Packet) bool {
			s.remove(key(p))
			return true
		}
	}
	return func(p *Packet) bool { return s.put(key(p), p.Now, timeout, op == dynsetUpdate, l) }
}
