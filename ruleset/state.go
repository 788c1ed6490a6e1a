package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

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
	Chains     []ChainState
	Counters   map[string]Counter
	// Digest and Prefix6 are those of the configuration that the table was made
	// of; "" and 0 if it is not portmon's work.
	Digest  string
	Prefix6 int
}

// ChainState is a chain in the kernel.
type ChainState struct {
	Name string
	Hook *Hook // nil for a chain that is no base chain; Hook.Name is not set
	// Plain reports that a base chain has type filter and policy accept.
	Plain bool
	Rules []RuleState
}

// RuleState is a rule in the kernel: its expressions as attributes, and its
// comment.
type RuleState struct {
	Exprs   [][]byte
	Comment string
	Handle  uint64 // the kernel's number for it
}

// Counter is the value of a named counter.
type Counter struct {
	Packets, Bytes uint64
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

// objects calls f for each object of the kind; f gets a decoder at the first
// attribute.
func (s *State) objects(c *nftset.Conn, typ uint16, narrow func(*netlink.AttributeEncoder), f func(*netlink.AttributeDecoder) error) error {
	attrs, err := attributes(narrow)
	if err != nil {
		return err
	}
	var fault error
	for b, err := range c.Dump(typ, s.Family, attrs) {
		if err != nil {
			return err
		}
		ad, err := netlink.NewAttributeDecoder(b)
		if err != nil {
			fault = err
			continue
		}
		ad.ByteOrder = binary.BigEndian
		fault = errors.Join(fault, f(ad), ad.Err())
	}
	return fault
}

func (s *State) readTable(c *nftset.Conn) error {
	return s.objects(c, unix.NFT_MSG_GETTABLE, func(*netlink.AttributeEncoder) {}, func(ad *netlink.AttributeDecoder) error {
		var name string
		var handle uint64
		var flags uint32
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				flags = ad.Uint32()
			case nftaTableHandle:
				handle = ad.Uint64()
			}
		}
		if name == s.Name {
			s.Exists, s.Handle, s.Dormant = true, handle, flags&unix.NFT_TABLE_F_DORMANT != 0
		}
		return nil
	})
}

const nftaTableHandle = 4 // NFTA_TABLE_HANDLE of include/uapi/linux/netfilter/nf_tables.h

func (s *State) readChains(c *nftset.Conn) error {
	return s.objects(c, unix.NFT_MSG_GETCHAIN, func(*netlink.AttributeEncoder) {}, func(ad *netlink.AttributeDecoder) error {
		var table, typ string
		policy := uint32(nfAccept)
		ch := ChainState{}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				ch.Name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				typ = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				policy = ad.Uint32()
			case unix.NFTA_CHAIN_HOOK:
				ch.Hook = &Hook{}
				ad.Nested(ch.Hook.decode)
			}
		}
		if table == s.Name {
			ch.Plain = typ == "filter" && policy == nfAccept
			s.Chains = append(s.Chains, ch)
		}
		return nil
	})
}

func (h *Hook) decode(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_HOOK_HOOKNUM:
			h.Number = ad.Uint32()
		case unix.NFTA_HOOK_PRIORITY:
			h.Priority = ad.Int32()
		}
	}
	return nil
}

func (s *State) readRules(c *nftset.Conn) error {
	narrow := func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_RULE_TABLE, s.Name) }
	return s.objects(c, unix.NFT_MSG_GETRULE, narrow, func(ad *netlink.AttributeDecoder) error {
		var table, chain string
		r := RuleState{}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_HANDLE:
				r.Handle = ad.Uint64()
			case unix.NFTA_RULE_USERDATA:
				r.Comment = ruleComment(ad.Bytes())
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						r.Exprs = append(r.Exprs, ad.Bytes())
					}
					return nil
				})
			}
		}
		if ch := s.chain(chain); ch != nil && table == s.Name {
			ch.Rules = append(ch.Rules, r)
			if digest, prefix6, ok := parseSeal(r.Comment); ok && chain == chainGuard {
				s.Digest, s.Prefix6 = digest, prefix6
			}
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
	narrow := func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, s.Name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	}
	return s.objects(c, unix.NFT_MSG_GETOBJ, narrow, func(ad *netlink.AttributeDecoder) error {
		var table, name string
		var typ uint32
		var v Counter
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_OBJ_TABLE:
				table = ad.String()
			case unix.NFTA_OBJ_NAME:
				name = ad.String()
			case unix.NFTA_OBJ_TYPE:
				typ = ad.Uint32()
			case unix.NFTA_OBJ_DATA:
				ad.Nested(v.decode)
			}
		}
		if table == s.Name && typ == unix.NFT_OBJECT_COUNTER {
			s.Counters[name] = v
		}
		return nil
	})
}

func (v *Counter) decode(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_COUNTER_BYTES:
			v.Bytes = ad.Uint64()
		case unix.NFTA_COUNTER_PACKETS:
			v.Packets = ad.Uint64()
		}
	}
	return nil
}

func (s *State) chain(name string) *ChainState {
	for i := range s.Chains {
		if s.Chains[i].Name == name {
			return &s.Chains[i]
		}
	}
	return nil
}

// Set returns the set of that name, or nil.
func (s *State) Set(name string) *nftset.Set {
	for i := range s.Sets {
		if s.Sets[i].Name == name {
			return &s.Sets[i]
		}
	}
	return nil
}
