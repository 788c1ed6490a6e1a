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

// attributes encodes what fill adds, numbers in network byte order. It cannot
// fail: nothing here is too long for an attribute.
func attributes(fill func(*attrEncoder)) []byte {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	fill(ae)
	return must(ae.Encode())
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(fmt.Sprintf("ruleset: encode attributes: %v", err))
	}
	return b
}

// message appends a message to the transaction.
func message(tx *nftset.Tx, typ uint8, flags uint16, t nftset.Table, op, name string, fill func(*attrEncoder)) {
	tx.Message(typ, flags, t.Family, attributes(fill), op, t.String()+" "+name)
}

func addCounter(tx *nftset.Tx, t nftset.Table, name string) {
	message(tx, unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, t, "add counter", name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, t.Name)
		ae.String(unix.NFTA_OBJ_NAME, name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		ae.Nested(unix.NFTA_OBJ_DATA, func(*attrEncoder) error { return nil })
	})
}

func deleteCounter(tx *nftset.Tx, t nftset.Table, name string) {
	message(tx, unix.NFT_MSG_DELOBJ, 0, t, "delete counter", name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, t.Name)
		ae.String(unix.NFTA_OBJ_NAME, name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	})
}

func addChain(tx *nftset.Tx, t nftset.Table, c *Chain) {
	message(tx, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, t, "add chain", c.Name, func(ae *attrEncoder) {
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

func deleteChain(tx *nftset.Tx, t nftset.Table, name string) {
	message(tx, unix.NFT_MSG_DELCHAIN, 0, t, "delete chain", name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, t.Name)
		ae.String(unix.NFTA_CHAIN_NAME, name)
	})
}

func flushChain(tx *nftset.Tx, t nftset.Table, name string) {
	message(tx, unix.NFT_MSG_DELRULE, 0, t, "flush chain", name, func(ae *attrEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.Name)
		ae.String(unix.NFTA_RULE_CHAIN, name)
	})
}

// addRule adds a rule to the end of a chain.
func addRule(tx *nftset.Tx, t nftset.Table, chain string, r Rule) {
	putRule(tx, t, chain, r, unix.NLM_F_APPEND)
}

// insertRule adds a rule to the head of a chain.
func insertRule(tx *nftset.Tx, t nftset.Table, chain string, r Rule) {
	putRule(tx, t, chain, r, 0)
}

// deleteRule deletes the rule of a chain that has a handle.
func deleteRule(tx *nftset.Tx, t nftset.Table, chain string, handle uint64) {
	message(tx, unix.NFT_MSG_DELRULE, 0, t, "delete rule of chain", chain, func(ae *attrEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.Name)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Uint64(unix.NFTA_RULE_HANDLE, handle)
	})
}

func putRule(tx *nftset.Tx, t nftset.Table, chain string, r Rule, where uint16) {
	message(tx, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|where, t, opAddRule, chain, func(ae *attrEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.Name)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *attrEncoder) error {
			for _, e := range r.Exprs {
				ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, must(expr.Marshal(byte(t.Family), e)))
			}
			return nil
		})
		if r.Comment != "" {
			ae.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.Comment))
		}
	})
}

// opAddRule is how errors name the adding of a rule.
const opAddRule = "add rule to chain"
