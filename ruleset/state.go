package ruleset

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
	"github.com/portmon/portmon/nftset"
)

// State is what the kernel holds of a table, set elements not included.
type State struct {
	nftset.Table
	// Exists reports whether there is such a table. Without it everything below
	// is empty.
	Exists bool
	// Dormant reports that the table is switched off: its chains see no
	// packets.
	Dormant bool
	// Handle is the kernel's number for this incarnation of the table.
	Handle uint64
	// Generation is that of the ruleset at the time of reading.
	Generation uint32
	Sets       []nftset.Set
	Chains     []Chain
	Counters   map[string]Counter
	// Digest and Prefix6 are those of the configuration that the table was made
	// of; "" and 0 if it is not portmon's work.
	Digest  string
	Prefix6 int
	// Observe reports that the table drops nothing, and only observes what it
	// would drop.
	Observe bool
}

// Counter is the value of a named counter.
type Counter struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Read reads the state of the inet table of that name. Missing privilege is
// os.ErrPermission.
func Read(c *nftset.Conn, name string) (*State, error) {
	// If a commit came in between, the state is read again. A Generation that
	// is outdated all the same makes a later commit fail, so that giving up
	// does no harm.
	const attempts = 10
	for attempt := 1; ; attempt++ {
		s, err := read(c, name)
		if err != nil {
			return nil, fmt.Errorf("read table inet %s: %w", name, err)
		}
		now, err := c.Generation()
		if err != nil {
			return nil, err
		}
		if now == s.Generation || attempt == attempts {
			return s, nil
		}
	}
}

func read(c *nftset.Conn, name string) (*State, error) {
	s := &State{Table: nftset.Table{Family: nftset.FamilyINet, Name: name}}
	var err error
	if s.Generation, err = c.Generation(); err != nil {
		return nil, err
	}
	if err := s.readTable(c); err != nil || !s.Exists {
		return s, err
	}
	if s.Sets, err = c.Sets(s.Table); err != nil {
		return nil, err
	}
	if err := errors.Join(s.readChains(c), s.readRules(c), s.readCounters(c)); err != nil {
		return nil, err
	}
	return s, nil
}

// attrMap holds the attributes of an object by their types.
type attrMap = map[uint16]nfnl.Attr

// objects calls f for each object of the kind.
func (s *State) objects(c *nftset.Conn, typ uint16, narrow func(*attrEncoder), f func(attrMap) error) error {
	var fault error
	for b, err := range c.Dump(typ, s.Family, attributes(narrow)) {
		if err != nil {
			return err
		}
		a, err := nfnl.Parse(b)
		if err == nil {
			err = f(a)
		}
		fault = errors.Join(fault, err)
	}
	return fault
}

func (s *State) readTable(c *nftset.Conn) error {
	return s.objects(c, unix.NFT_MSG_GETTABLE, func(*attrEncoder) {}, func(a attrMap) error {
		if string(a[unix.NFTA_TABLE_NAME].Text()) == s.Name {
			s.Exists, s.Handle = true, a[nftaTableHandle].Uint64()
			s.Dormant = a[unix.NFTA_TABLE_FLAGS].Uint32()&unix.NFT_TABLE_F_DORMANT != 0
		}
		return nil
	})
}

const nftaTableHandle = 4 // NFTA_TABLE_HANDLE of include/uapi/linux/netfilter/nf_tables.h

func (s *State) readChains(c *nftset.Conn) error {
	return s.objects(c, unix.NFT_MSG_GETCHAIN, func(*attrEncoder) {}, func(a attrMap) error {
		if string(a[unix.NFTA_CHAIN_TABLE].Text()) != s.Name {
			return nil
		}
		ch := Chain{Name: string(a[unix.NFTA_CHAIN_NAME].Text())}
		if hook, ok := a[unix.NFTA_CHAIN_HOOK]; ok {
			h, err := nfnl.Parse(hook.Data)
			if err != nil {
				return err
			}
			ch.Hook = &Hook{
				Number:   h[unix.NFTA_HOOK_HOOKNUM].Uint32(),
				Priority: int32(h[unix.NFTA_HOOK_PRIORITY].Uint32()),
				Plain: string(a[unix.NFTA_CHAIN_TYPE].Text()) == "filter" &&
					a[unix.NFTA_CHAIN_POLICY].Uint32() == nfAccept,
			}
		}
		s.Chains = append(s.Chains, ch)
		return nil
	})
}

func (s *State) readRules(c *nftset.Conn) error {
	narrow := func(ae *attrEncoder) { ae.String(unix.NFTA_RULE_TABLE, s.Name) }
	return s.objects(c, unix.NFT_MSG_GETRULE, narrow, func(a attrMap) error {
		ch := s.chain(string(a[unix.NFTA_RULE_CHAIN].Text()))
		if ch == nil || string(a[unix.NFTA_RULE_TABLE].Text()) != s.Name {
			return nil
		}
		r := Rule{Comment: ruleComment(a[unix.NFTA_RULE_USERDATA].Data), Handle: a[unix.NFTA_RULE_HANDLE].Uint64()}
		for e, err := range nfnl.Attrs(a[unix.NFTA_RULE_EXPRESSIONS].Data) {
			if err != nil {
				return err
			}
			r.Exprs = append(r.Exprs, decodeExpr(s.Family, e.Data))
		}
		ch.Rules = append(ch.Rules, r)
		if digest, prefix6, observe, ok := parseSeal(r.Comment); ok && ch.Name == chainGuard {
			s.Digest, s.Prefix6, s.Observe = digest, prefix6, observe
		}
		return nil
	})
}

// ruleComment finds the comment in a rule's user data: a list of type, length,
// value.
func ruleComment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if v := b[2 : 2+int(b[1])]; b[0] == 0 && len(v) > 0 { // NFTNL_UDATA_RULE_COMMENT
			return string(v[:len(v)-1])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

func (s *State) readCounters(c *nftset.Conn) error {
	s.Counters = make(map[string]Counter)
	narrow := func(ae *attrEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, s.Name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	}
	return s.objects(c, unix.NFT_MSG_GETOBJ, narrow, func(a attrMap) error {
		v, err := nfnl.Parse(a[unix.NFTA_OBJ_DATA].Data)
		if string(a[unix.NFTA_OBJ_TABLE].Text()) == s.Name && a[unix.NFTA_OBJ_TYPE].Uint32() == unix.NFT_OBJECT_COUNTER {
			s.Counters[string(a[unix.NFTA_OBJ_NAME].Text())] = Counter{
				Packets: v[unix.NFTA_COUNTER_PACKETS].Uint64(), Bytes: v[unix.NFTA_COUNTER_BYTES].Uint64(),
			}
		}
		return err
	})
}

func (s *State) chain(name string) *Chain { return findChain(s.Chains, name) }

// Set returns the set of that name, or nil.
func (s *State) Set(name string) *nftset.Set {
	for i := range s.Sets {
		if s.Sets[i].Name == name {
			return &s.Sets[i]
		}
	}
	return nil
}
