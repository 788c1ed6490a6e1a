package ruleset

import (
	"reflect"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
	"github.com/portmon/portmon/nftset"
)

// kinds are the expressions that are understood.
var kinds = map[string]expr.Any{
	"payload": &expr.Payload{}, "meta": &expr.Meta{}, "ct": &expr.Ct{}, "fib": &expr.Fib{}, "socket": &expr.Socket{},
	"bitwise": &expr.Bitwise{}, "cmp": &expr.Cmp{}, "lookup": &expr.Lookup{}, "dynset": &expr.Dynset{},
	"limit": &expr.Limit{}, "objref": &expr.Objref{}, "immediate": &expr.Immediate{}, "log": &expr.Log{},
	"counter": &expr.Counter{},
}

// decodeExpr returns an expression of a rule in the kernel, nil for one that is
// not understood.
func decodeExpr(family nftset.Family, b []byte) expr.Any {
	attrs, err := nfnl.Parse(b)
	if err != nil {
		return nil
	}
	data := attrs[unix.NFTA_EXPR_DATA].Data
	kind := kinds[string(attrs[unix.NFTA_EXPR_NAME].Text())]
	if kind == nil {
		return nil
	}
	e := reflect.New(reflect.TypeOf(kind).Elem()).Interface().(expr.Any)
	if expr.Unmarshal(byte(family), data, e) != nil {
		return nil
	}
	if imm, ok := e.(*expr.Immediate); ok && imm.Register == unix.NFT_REG_VERDICT {
		e = &expr.Verdict{}
		expr.Unmarshal(byte(family), data, e) // as before, without an error
	}
	return e
}

// same reports whether a rule that the kernel holds is like one of a table.
func (r Rule) same(have Rule) bool {
	return r.Comment == have.Comment && r.sameExprs(have)
}

func (r Rule) sameExprs(have Rule) bool { return slices.EqualFunc(r.Exprs, have.Exprs, sameExpr) }

// sameExpr compares what the kernel gives back as it was sent, and so neither
// the numbers of sets in a transaction nor the level of a socket, which has a
// meaning only for cgroups. It rounds the timeout of a dynset to its ticks.
//
// Attributes that package expr does not decode are not compared. It decodes all
// that our rules have; a rule of another program that differs from ours in
// nothing but such an attribute would be taken for ours.
func sameExpr(want, have expr.Any) bool {
	switch h := have.(type) {
	case *expr.Lookup:
		c := *h
		c.SetID, have = 0, &c
	case *expr.Socket:
		c := *h
		c.Level, have = 0, &c
	case *expr.Dynset:
		c := *h
		if w, ok := want.(*expr.Dynset); ok && sameTimeout(h.Timeout, w.Timeout) {
			c.Timeout = w.Timeout
		}
		c.SetID, have = 0, &c
	}
	return reflect.DeepEqual(want, have)
}

// sameTimeout allows for the ticks that the kernel rounds to, 10 ms at most.
func sameTimeout(have, want time.Duration) bool {
	return (have-want).Abs() <= 10*time.Millisecond && (have == 0) == (want == 0)
}
