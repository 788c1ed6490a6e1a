package ruleset

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// TestProbe is for the kernels that these tests run on: on one that is new
// enough, what is missing is a fault of ours.
func TestProbe(t *testing.T) {
	l := newBareLab(t)
	l.NFT(foreign)
	before, generation := l.list("-a"), l.generation()
	f, err := Probe(l.conn)
	if err != nil {
		t.Fatal(err)
	}
	if f != (Features{Log: true}) {
		t.Errorf("this kernel has %+v, says Probe; all is expected of Linux 6.1 and later", f)
	}
	if len(f.Missing()) != 0 {
		t.Errorf("something is missing: %q", f.Missing())
	}
	if after := l.list("-a"); after != before || l.generation() != generation {
		t.Errorf("Probe changed the ruleset:\n%s", difference(after, before))
	}
	if r := l.apply(Default()); r.Features != f {
		t.Errorf("Apply found %+v, Probe %+v", r.Features, f)
	}
}

func TestMissingSaysWhatIs(t *testing.T) {
	for f, words := range map[Features][]string{
		{}:          {"CONFIG_NETFILTER_NETLINK_LOG"},
		{Log: true}: nil,
	} {
		if got := f.Missing(); !slices.EqualFunc(got, words, strings.Contains) {
			t.Errorf("%+v: got %q, want a sentence with each of %q", f, got, words)
		}
	}
}

// refused is a statement that no kernel takes: it reads something of a socket
// that there is not.
func refused() statement {
	return statement{text: "socket of nobody", exprs: []expr.Any{&expr.Socket{Key: 99, Register: register}}}
}

// withProbe replaces one thing that the kernel is asked for until the test
// ends.
func withProbe(t *testing.T, i int, s statement) {
	t.Helper()
	saved := probes[i].statement
	t.Cleanup(func() { probes[i].statement = saved })
	probes[i].statement = s
}

// TestProbeOfALesserKernel has the kernel refuse one thing at a time, for real,
// if not for the reason that an old one has.
func TestProbeOfALesserKernel(t *testing.T) {
	l := newBareLab(t)
	for i, p := range probes {
		t.Run(p.statement.text, func(t *testing.T) {
			withProbe(t, i, refused())
			f, err := Probe(l.conn)
			if p.optional != nil {
				want := Features{Log: true}
				*p.optional(&want) = false
				if err != nil || f != want {
					t.Errorf("got %+v, %v, want %+v", f, err, want)
				}
				return
			}
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
	l := newTrap(t, Default())
	t1 := nftset.Table{Family: nftset.FamilyINet, Name: "portmon"}
	commit := func(fill func(*nftset.Tx) error) error {
		tx := &nftset.Tx{}
		return errors.Join(fill(tx), l.conn.Check(tx))
	}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"a rule that is refused": {commit(func(tx *nftset.Tx) error { return addRule(tx, t1, chainTrap, rule(refused())) }), true},
		"a chain that is refused": {commit(func(tx *nftset.Tx) error {
			return addChain(tx, t1, &Chain{Name: "x", Hook: &Hook{"nowhere", 99, 0}})
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

// applyWith makes the table that a kernel with only these features would get.
func (l *fixture) applyWith(spec Spec, f Features) {
	l.T.Helper()
	p, err := prepare(l.conn, spec, f)
	if err != nil {
		l.T.Fatal(err)
	}
	_, tx, err := p.transactions()
	if err != nil {
		l.T.Fatal(err)
	}
	if err := l.conn.Commit(tx); err != nil {
		l.T.Fatal(err)
	}
}

// TestLesserKernelsBanAllTheSame has the table that older kernels get.
func TestLesserKernelsBanAllTheSame(t *testing.T) {
	for name, f := range map[string]Features{
		"nothing": {}, "log": {Log: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.NFT("") // nothing but to see that nft is there
			l.applyWith(trapSpec(), f)
			list := l.list()
			if !strings.Contains(list, "fib saddr . mark . iif ") {
				t.Error("the route back is not checked")
			}
			if got := strings.Contains(list, "log prefix"); got != f.Log {
				t.Errorf("are bans logged? %v, want %v", got, f.Log)
			}
			l.families(func(l *fixture, f family) {
				src, bystander := l.source(f), l.source(f)
				l.Offend(src)
				l.Cut(src)
				l.Served(bystander)
				udp := l.source(f)
				l.Want(l.UDP(udp, trapUDP), 0)
				l.Cut(udp)
			})
			if n := len(l.bans()); n != 4 {
				t.Errorf("%d bans, want 4", n)
			}
			// The host is not, by whoever sends in its name; the kernel itself
			// refuses that for IPv4.
			l.Internet.Send(l.SYN(l.Link.B.IPv6, lab.TrapTCP))
			l.Internet.Send(l.UDP(l.Link.B.IPv6, trapUDP))
			for what := range l.bans() {
				if prefix(cidr(what)).Contains(l.Link.B.IPv6) {
					t.Errorf("the host has banned itself: %s", what)
				}
			}
			// A source without a way back is banned by none.
			for _, cmd := range []string{"198.51.100.0/24", "2001:db8:51::/48"} {
				l.Host.AddRoute(cmd, "lo")
			}
			for _, src := range []string{"198.51.100.9", "2001:db8:51::9"} {
				l.Offend(addr(src))
				if _, banned := l.bans()[banOf(addr(src))]; banned {
					t.Errorf("%s is banned, to which no route leads back", src)
				}
			}
		})
	}
}
