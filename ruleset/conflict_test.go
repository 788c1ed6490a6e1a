package ruleset

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// TestConflictChangesNothing has something in the table that would be lost.
func TestConflictChangesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script  string
		objects       []string // of each *ConflictError
		have, wantHas string   // in the first of them
	}{
		{"other key type", "add table inet portmon; add set inet portmon ban4 { type ipv6_addr; flags dynamic,timeout; elements = { 2001:db8::7 } }",
			[]string{"set inet portmon ban4"}, "ipv6_addr", "ipv4_addr"},
		{"a type that we do not know", "add table inet portmon; add set inet portmon ban6 { type ether_addr; flags timeout; elements = { 02:00:00:00:00:07 } }",
			[]string{"set inet portmon ban6"}, "type 9", "ipv6_addr"},
		{"other flags", "add table inet portmon; add set inet portmon tier4_2 { type ipv4_addr; elements = { 198.51.100.7 } }",
			[]string{"set inet portmon tier4_2"}, "", "dynamic,timeout"},
		{"a ban set without timeouts", "add table inet portmon; add set inet portmon ban6 { type ipv6_addr; flags dynamic; elements = { 2001:db8:7:: } }",
			[]string{"set inet portmon ban6"}, "flags dynamic", "dynamic,timeout"},
		{"a concatenation the wrong way round", "add table inet portmon; add set inet portmon probed4 { type inet_service . ipv4_addr; flags dynamic,timeout; }",
			[]string{"set inet portmon probed4"}, "type ", "ipv4_addr . inet_service"},
		{"two at once", "add table inet portmon; add set inet portmon trap_tcp { type ipv4_addr; }; add set inet portmon net6 { type ipv6_addr; flags timeout; }",
			[]string{"set inet portmon net6", "set inet portmon trap_tcp"}, "flags timeout", "flags interval,timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.NFT(tt.script + "\n" + foreign)
			before, generation := l.list("-a"), l.generation()
			for name, f := range map[string]func(*nftset.Conn, Spec) (*Plan, error){"Apply": Apply, "Prepare": Prepare} {
				_, err := f(l.conn, trapSpec())
				var conflict *ConflictError
				if !errors.As(err, &conflict) {
					t.Fatalf("%s: got %v, want *ConflictError", name, err)
				}
				if conflict.Object != tt.objects[0] || !strings.Contains(conflict.Have, tt.have) || !strings.Contains(conflict.Want, tt.wantHas) {
					t.Errorf("%s: got %+v, want one about %s, with %q that must be %q", name, conflict, tt.objects[0], tt.have, tt.wantHas)
				}
				for _, o := range tt.objects {
					if !strings.Contains(err.Error(), o) {
						t.Errorf("%s: %q does not name %s", name, err, o)
					}
				}
			}
			if after := l.list("-a"); after != before {
				t.Errorf("the ruleset changed:\n%s", difference(after, before))
			}
			if g := l.generation(); g != generation {
				t.Errorf("generation %d, was %d", g, generation)
			}
		})
	}
}

// TestFailureInTheTransactionChangesNothing has a change that the kernel
// refuses as the last of many.
func TestFailureInTheTransactionChangesNothing(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	// A chain of somebody in our table, which a map of theirs leads to: it
	// cannot be deleted.
	l.NFT(`
add chain inet portmon theirs
add map inet portmon verdicts { type ipv4_addr : verdict; elements = { 203.0.113.9 : jump theirs }; }`)
	l.families(func(l *fixture, f family) { l.Offend(l.source(f)) })
	other := trapSpec()
	other.TrapTCP, other.TrapUDP = []Ports{{4444, 4444}}, nil
	other.Whitelist = []netip.Prefix{prefix("198.18.0.0/15"), prefix("2001:db8::/32")}
	other.BanTime = []time.Duration{time.Hour}
	other.MaxRetry, other.Size, other.Prefix6 = 3, 700, 56

	before, generation := l.list("-a", "-t"), l.generation()
	l.keeps(func() {
		for name, f := range map[string]func(*nftset.Conn, Spec) (*Plan, error){"Apply": Apply, "Prepare": Prepare} {
			_, err := f(l.conn, other)
			var op *nftset.OpError
			if !errors.As(err, &op) || !errors.Is(err, unix.EBUSY) || op.Op != "delete chain" || op.Object != "inet portmon theirs" {
				t.Errorf("%s: got %v, want that the chain cannot be deleted", name, err)
			}
		}
	})
	if after := l.list("-a", "-t"); after != before {
		t.Errorf("the ruleset changed:\n%s", difference(after, before))
	}
	if g := l.generation(); g != generation {
		t.Errorf("generation %d, was %d", g, generation)
	}
	l.families(func(l *fixture, f family) { l.offendAndCut(f) })

	l.NFT("delete map inet portmon verdicts")
	l.apply(other)
	if p := l.prepare(other); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}
}

func TestInvalidSpecChangesNothing(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	before, generation := l.list("-a"), l.generation()
	for name, f := range map[string]func(*nftset.Conn, Spec) (*Plan, error){"Apply": Apply, "Prepare": Prepare} {
		var fault *SpecError
		if _, err := f(l.conn, Spec{Table: "portmon"}); !errors.As(err, &fault) {
			t.Errorf("%s of an empty Spec: got %v, want *SpecError", name, err)
		}
	}
	if after := l.list("-a"); after != before || l.generation() != generation {
		t.Errorf("the ruleset changed:\n%s", difference(after, before))
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.NFT(foreign)
	theirs := l.list("-a")
	if existed, err := Remove(l.conn, "portmon"); existed || err != nil {
		t.Errorf("there is none: got %v, %v", existed, err)
	}
	l.apply(trapSpec())
	var banned []netip.Addr
	l.families(func(l *fixture, f family) {
		banned = append(banned, l.source(f))
		l.Offend(banned...)
	})
	s := l.open()
	for i, want := range []bool{true, false} {
		if existed, err := Remove(l.conn, "portmon"); existed != want || err != nil {
			t.Errorf("attempt %d: got %v, %v, want %v", i, existed, err, want)
		}
	}
	if got := l.list("-a"); got != theirs {
		t.Errorf("the ruleset changed:\n%s", difference(got, theirs))
	}
	l.Served(banned...)
	if after := l.open(); after.Exists || after.Handle != 0 || len(after.Sets)+len(after.Chains)+len(after.Counters) != 0 {
		t.Errorf("Read of a table that is not there: %+v", after)
	}
	for _, err := range s.Bans() {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("bans of a table that is gone: got %v, want os.ErrNotExist", err)
		}
	}
}
