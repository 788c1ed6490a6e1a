package ruleset

import (
	"bytes"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
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
	w, werr := nfnl.Parse(want)
	h, herr := nfnl.Parse(have)
	name := string(w[unix.NFTA_EXPR_NAME].Text())
	if werr != nil || herr != nil || name != string(h[unix.NFTA_EXPR_NAME].Text()) {
		return false
	}
	wantData, haveData := w[unix.NFTA_EXPR_DATA].Data, h[unix.NFTA_EXPR_DATA].Data
	if name == "dynset" && !sameTimeout(dynsetTimeout(haveData), dynsetTimeout(wantData)) {
		return false
	}
	return sameAttributes(wantData, haveData, sent[name])
}

// dynsetTimeout returns the timeout in the data of a dynset, 0 if there is
// none.
func dynsetTimeout(data []byte) time.Duration {
	attrs, _ := nfnl.Parse(data) // sameAttributes returns false on an error
	return time.Duration(attrs[unix.NFTA_DYNSET_TIMEOUT].Uint64()) * time.Millisecond
}

// sameAttributes reports whether every attribute of want is in have with the
// same value, those of types in except apart, and whether what have has beside
// them is zero, which is how the kernel reports options that are off: a lookup
// is inverted by a flag.
func sameAttributes(want, have []byte, except []uint16) bool {
	w, werr := nfnl.Parse(want)
	h, herr := nfnl.Parse(have)
	if werr != nil || herr != nil {
		return false
	}
	for typ, a := range w {
		v := h[typ].Data
		if !slices.Contains(except, typ) && !sameValue(a.Data, v) &&
			!(len(v) > 0 && nested(a.Data) && sameAttributes(a.Data, v, nil)) {
			return false
		}
	}
	for typ, a := range h {
		if _, wanted := w[typ]; !wanted && !slices.Contains(except, typ) && len(bytes.Trim(a.Data, "\x00")) > 0 {
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
	attrs, err := nfnl.Parse(data)
	return err == nil && len(attrs) > 0
}
