package ruleset

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// attrEncoder encodes the attributes of a message.
type attrEncoder = netlink.AttributeEncoder

// attributes encodes what fill adds, numbers in network byte order.
func attributes(fill func(*attrEncoder)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	fill(ae)
	return ae.Encode()
}

// message appends a message to the transaction.
func message(
	tx *nftset.Tx, typ uint8, flags uint16, t nftset.Table, op, name string, fill func(*attrEncoder),
) error {
	object := t.String() + " " + name
	attrs, err := attributes(fill)
	if err != nil {
		return fmt.Errorf("%s %s: encode: %w", op, object, err)
	}
	tx.Message(typ, flags, t.Family, attrs, op, object)
	return nil
}

func addCounter(tx *nftset.Tx, t nftset.Table, name string) error {
	return message(tx, unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, t, "add counter", name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, t.Name)
		ae.String(unix.NFTA_OBJ_NAME, name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		ae.Nested(unix.NFTA_OBJ_DATA, func(*attrEncoder) error { return nil })
	})
}

func addChain(tx *nftset.Tx, t nftset.Table, c *Chain) error {
	return message(tx, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, t, "add chain", c.Name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, t.Name)
		ae.String(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Hook == nil {
			return
		}
		ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *attrEncoder) error {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, c.Hook.Number)
			ae.Int32(unix.NFTA_HOOK_PRIORITY, c.Hook.Priority)
			return nil
		})
		ae.Uint32(unix.NFTA_CHAIN_POLICY, nfAccept)
		ae.String(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

const nfAccept = 1 // NF_ACCEPT of include/uapi/linux/netfilter.h

func deleteChain(tx *nftset.Tx, t nftset.Table, name string) error {
	return message(tx, unix.NFT_MSG_DELCHAIN, 0, t, "delete chain", name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, t.Name)
		ae.String(unix.NFTA_CHAIN_NAME, name)
	})
}

func flushChain(tx *nftset.Tx, t nftset.Table, name string) error {
	return message(tx, unix.NFT_MSG_DELRULE, 0, t, "flush chain", name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.Name)
		ae.String(unix.NFTA_RULE_CHAIN, name)
	})
}

// addRule adds a rule to the end of a chain.
func addRule(tx *nftset.Tx, t nftset.Table, chain string, r Rule) error {
	return putRule(tx, t, chain, r, unix.NLM_F_APPEND)
}

// insertRule adds a rule to the head of a chain.
func insertRule(tx *nftset.Tx, t nftset.Table, chain string, r Rule) error {
	return putRule(tx, t, chain, r, 0)
}

// deleteRule deletes the rule of a chain that has a handle.
func deleteRule(tx *nftset.Tx, t nftset.Table, chain string, handle uint64) error {
	return message(tx, unix.NFT_MSG_DELRULE, 0, t, "delete rule of chain", chain, func(ae *attrEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.Name)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Uint64(unix.NFTA_RULE_HANDLE, handle)
	})
}

func putRule(tx *nftset.Tx, t nftset.Table, chain string, r Rule, where uint16) error {
	exprs, err := r.encode(t.Family)
	if err != nil {
		return fmt.Errorf("add rule to chain %s %s: encode: %w", t, chain, err)
	}
	flags := unix.NLM_F_CREATE | where
	return message(tx, unix.NFT_MSG_NEWRULE, flags, t, opAddRule, chain, func(ae *attrEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.Name)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *attrEncoder) error {
			for _, e := range exprs {
				ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, e)
			}
			return nil
		})
		if r.comment != "" {
			ae.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.comment))
		}
	})
}

// opAddRule is how errors name the adding of a rule.
const opAddRule = "add rule to chain"

// encode returns the rule's expressions as they travel.
func (r Rule) encode(family nftset.Family) ([][]byte, error) {
	var out [][]byte
	for _, e := range expressions(r.statements) {
		b, err := expr.Marshal(byte(family), e)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
