package machine

import (
	"strings"
	"testing"

	"github.com/google/nftables/expr"

	"github.com/portmon/portmon/ruleset"
)

// TestUnknown has rules that the machine does not know: it must not pass over
// them.
func TestUnknown(t *testing.T) {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	for name, exprs := range map[string][]expr.Any{
		"an expression":            {&expr.Masq{}},
		"a verdict":                {&expr.Verdict{Kind: expr.VerdictQueue}},
		"a chain":                  {&expr.Verdict{Kind: expr.VerdictGoto, Chain: "nowhere"}},
		"a loop":                   {&expr.Verdict{Kind: expr.VerdictJump, Chain: "early"}},
		"a set":                    {load, &expr.Lookup{SourceRegister: 1, SetName: "nothing"}},
		"a map":                    {load, &expr.Lookup{SourceRegister: 1, SetName: "ban4", IsDestRegSet: true}},
		"a register":               {&expr.Lookup{SourceRegister: 2, SetName: "ban4"}},
		"a key of another length":  {load, &expr.Lookup{SourceRegister: 1, SetName: "ban6"}},
		"a set that is not added":  {load, &expr.Dynset{SrcRegKey: 1, SetName: "net4"}},
		"a counter":                {&expr.Objref{Type: 1, Name: "nothing"}},
		"a limit of bytes":         {&expr.Limit{Type: expr.LimitTypePktBytes, Rate: 1, Unit: 1, Burst: 1}},
		"a meta key":               {&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}},
		"a ct key":                 {&expr.Ct{Key: expr.CtKeyMARK, Register: 1}},
		"a fib result":             {&expr.Fib{Register: 1, ResultOIFNAME: true, FlagDADDR: true}},
		"a socket key":             {&expr.Socket{Key: expr.SocketKeyMark, Register: 1}},
		"a bitwise expression":     {load, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: make([]byte, 4), Xor: []byte{0, 0, 0, 1}}},
		"what is written":          {&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Len: 4}},
		"what is behind a verdict": {&expr.Verdict{Kind: expr.VerdictDrop}, load},
		"the link header":          {&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Len: 6}},
		"a number out of order":    {&expr.Meta{Key: expr.MetaKeyIIF, Register: 1}, &expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: make([]byte, 4)}},
	} {
		table := ruleset.Compile(ruleset.Default())
		if _, err := New(table); err != nil {
			t.Fatal(err)
		}
		table.Chains[0].Rules = append(table.Chains[0].Rules, ruleset.Rule{Text: "strange", Exprs: exprs})
		_, err := New(table)
		if err == nil || !strings.Contains(err.Error(), "chain early") {
			t.Errorf("%s: got error %v, want one that names the chain", name, err)
		}
	}
}
