package ruleset

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// TestProbe is for the kernels that these tests run on: on one that is new
// enough, what is missing is a fault of ours.
func TestProbe(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	l.NFT(foreign)
	before, generation := l.list("-a"), l.generation()
	if err := Probe(l.conn); err != nil {
		t.Fatal(err)
	}
	if after := l.list("-a"); after != before || l.generation() != generation {
		t.Errorf("Probe changed the ruleset:\n%s", difference(after, before))
	}
}

// refused is a rule that no kernel takes: it reads something of a socket that
// there is not.
var refused = Rule{Exprs: []expr.Any{&expr.Socket{Key: 99, Register: register}}}

// TestProbeOfALesserKernel has the kernel refuse one thing at a time, for real,
// if not for the reason that an old one has.
func TestProbeOfALesserKernel(t *testing.T) {
	l := newBareLab(t)
	for i, p := range required {
		t.Run(p.rule.Text, func(t *testing.T) {
			t.Cleanup(func() { required[i].rule = p.rule })
			required[i].rule = refused
			err := Probe(l.conn)
			var unsupported *UnsupportedError
			if !errors.As(err, &unsupported) || !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrPermission) {
				t.Fatalf("got %v, want *UnsupportedError", err)
			}
			if unsupported.Feature != p.feature || unsupported.Option != p.option || !errors.Is(err, unix.EOPNOTSUPP) {
				t.Errorf("got %+v", unsupported)
			}
			for _, words := range []string{p.feature, p.option, unix.EOPNOTSUPP.Error()} {
				if words == "" || !strings.Contains(err.Error(), words) {
					t.Errorf("%q does not say %q", err, words)
				}
			}
		})
	}
}

// TestRefusedRule tells a kernel that lacks something from other failures: only
// then is it asked what it has.
func TestRefusedRule(t *testing.T) {
	t.Parallel()
	l := newTrap(t, Default())
	t1 := nftset.Table{Family: nftset.FamilyINet, Name: "portmon"}
	commit := func(fill func(*nftset.Tx)) error {
		tx := &nftset.Tx{}
		fill(tx)
		return l.conn.Check(tx)
	}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"a rule that is refused": {commit(func(tx *nftset.Tx) { addRule(tx, t1, chainTrap, refused) }), true},
		"a chain that is refused": {commit(func(tx *nftset.Tx) {
			addChain(tx, t1, &Chain{Name: "x", Hook: &Hook{Number: 99}})
		}), false},
		"no privilege":     {&nftset.OpError{Op: opAddRule, Err: unix.EPERM}, false},
		"something else":   {errors.New("add rule to chain"), false},
		"wrapped":          {fmt.Errorf("apply: %w", &nftset.OpError{Op: opAddRule, Err: unix.EINVAL}), true},
		"nothing is amiss": {nil, false},
	} {
		if tt.err == nil && name != "nothing is amiss" {
			t.Errorf("%s: the kernel took it", name)
		}
		if got := refusedRule(tt.err); got != tt.want {
			t.Errorf("%s (%v): got %v, want %v", name, tt.err, got, tt.want)
		}
	}
}
