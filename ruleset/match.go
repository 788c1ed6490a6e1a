package ruleset

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// matches reports whether the kernel's rules are those of the chain. The kernel
// adds attributes to an expression and orders them in its own way, so a rule is
// the same when it has the same expressions and each has the attributes that we
// would send, and no other that is not zero.
func (c *Chain) matches(family nftset.Family, have []RuleState) bool {
	if len(c.Rules) != len(have) {
		return false
	}
	for i, r := range c.Rules {
		if r.comment != have[i].Comment || !r.matches(family, have[i].Exprs) {
			return false
		}
	}
	return true
}

func (r Rule) matches(family nftset.Family, have [][]byte) bool {
	want, err := r.encode(family)
	if err != nil || len(want) != len(have) {
		return false
	}
	for i := range want {
		if !sameExpr(want[i], have[i]) {
			return false
		}
	}
	return true
}

// sent are the attributes that the kernel does not give back as they were: the
// number of a set in a transaction, and the timeout of a dynset, which it
// rounds to its ticks; the level of a socket has a meaning only for cgroups.
var sent = map[string][]uint16{
	"lookup": {unix.NFTA_LOOKUP_SET_ID},
	"dynset": {unix.NFTA_DYNSET_SET_ID, unix.NFTA_DYNSET_TIMEOUT},
	"socket": {expr.NFTA_SOCKET_LEVEL},
}

func sameExpr(want, have []byte) bool {
	w, err := netlink.UnmarshalAttributes(want)
	if err != nil {
		return false
	}
	h, err := netlink.UnmarshalAttributes(have)
	if err != nil {
		return false
	}
	if !bytes.Equal(find(w, unix.NFTA_EXPR_NAME), find(h, unix.NFTA_EXPR_NAME)) {
		return false
	}
	name := string(bytes.TrimRight(find(w, unix.NFTA_EXPR_NAME), "\x00"))
	wantData, haveData := find(w, unix.NFTA_EXPR_DATA), find(h, unix.NFTA_EXPR_DATA)
	if name == "dynset" && !sameTimeout(dynsetTimeout(haveData), dynsetTimeout(wantData)) {
		return false
	}
	return sameAttributes(wantData, haveData, sent[name])
}

// dynsetTimeout returns the timeout in the data of a dynset, 0 if there is
// none.
func dynsetTimeout(data []byte) time.Duration {
	attrs, _ := netlink.UnmarshalAttributes(data) // if they are none, sameAttributes says so
	b := find(attrs, unix.NFTA_DYNSET_TIMEOUT)
	if len(b) != 8 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(b)) * time.Millisecond
}

// sameAttributes reports whether every attribute of want is in have with the
// same value, those of types in except apart, and whether what have has beside
// them is zero, which is how the kernel reports options that are off: a lookup
// is inverted by a flag.
func sameAttributes(want, have []byte, except []uint16) bool {
	w, err := netlink.UnmarshalAttributes(want)
	if err != nil {
		return false
	}
	h, err := netlink.UnmarshalAttributes(have)
	if err != nil {
		return false
	}
	for _, a := range w {
		typ := a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if slices.Contains(except, typ) {
			continue
		}
		v := find(h, typ)
		if !sameValue(a.Data, v) && !(len(v) > 0 && nested(a.Data) && sameAttributes(a.Data, v, nil)) {
			return false
		}
	}
	for _, a := range h {
		typ := a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if !slices.Contains(except, typ) && find(w, typ) == nil && len(bytes.Trim(a.Data, "\x00")) > 0 {
			return false
		}
	}
	return true
}

// sameValue compares values; the kernel ends every string with a NUL,
// google/nftables not that of an objref.
func sameValue(want, have []byte) bool {
	return bytes.Equal(want, have) || len(have) == len(want)+1 && have[len(want)] == 0 && bytes.HasPrefix(have, want)
}

// nested guesses whether data are attributes. A wrong guess does no harm:
// values that differ would have to be lists of attributes, one within the
// other, to be taken for the same.
func nested(data []byte) bool {
	attrs, err := netlink.UnmarshalAttributes(data)
	return err == nil && len(attrs) > 0
}

func find(attrs []netlink.Attribute, typ uint16) []byte {
	for _, a := range attrs {
		if a.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == typ {
			return a.Data
		}
	}
	return nil
}
