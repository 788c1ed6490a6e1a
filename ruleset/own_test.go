package ruleset

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portmon/portmon/nftset"
)

// source returns by which prefix an address is banned.
func (l *fixture) sourceOf(a string) netip.Prefix {
	l.T.Helper()
	p, err := l.open().Source(addr(a))
	if err != nil {
		l.T.Fatal(err)
	}
	return p
}

func (l *fixture) knows(own ...string) {
	l.T.Helper()
	got := parseNftSet(l.T.(*testing.T), l.NFT("", "-j", "list", "set", "inet", "portmon", setOwn6))
	for _, a := range own {
		if _, ok := got[a]; !ok {
			l.T.Errorf("%s is not among the networks of this host, which are %v", a, got)
		}
		delete(got, a)
	}
	if len(got) > 0 {
		l.T.Errorf("more networks than wanted: %v", got)
	}
}

// TestOwn6 tells the table of the host's own networks before anybody offends:
// when it is made, and when it is there.
func TestOwn6(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(l *fixture){
		"new":            func(*fixture) {},
		"there":          func(l *fixture) { l.apply(trapSpec()) },
		"away":           func(l *fixture) { l.apply(trapSpec()); l.FlushRuleset() },
		"all one by one": func(l *fixture) { s := trapSpec(); s.Prefix6 = 128; l.apply(s) },
		"dormant":        func(l *fixture) { l.apply(trapSpec()); l.NFT("add table inet portmon { flags dormant; }") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			before(l)
			spec := trapSpec()
			spec.Own6 = []netip.Prefix{prefix("2001:db8:d::/80"), prefix("2001:db8:c::/64"), prefix("2001:db8:b::/64"), prefix("2001:db8:c::/64")}
			// A dormant table is woken first.
			if r := l.apply(spec); r.Empty() || r.Current() != (name == "there" || name == "dormant") {
				t.Errorf("does this only learn networks? %v:\n%s", r.Current(), r)
			}
			l.knows("2001:db8:b::", "2001:db8:c::")
			if p := l.prepare(spec); !p.Empty() {
				t.Errorf("there is more to do:\n%s", p)
			}
			for a, want := range map[string]string{
				"2001:db8:c::1": "2001:db8:c::1/128", "2001:db8:d::1": "2001:db8:d::/64", "2001:db8:e::1": "2001:db8:e::/64",
				"64:ff9b::198.51.100.1": "64:ff9b::c633:6401/128", "198.51.100.1": "198.51.100.1/32", "::ffff:198.51.100.1": "198.51.100.1/32",
			} {
				if p := l.sourceOf(a); p != prefix(want) {
					t.Errorf("the source of %s is %v, want %s", a, p, want)
				}
			}
			l.Offend(addr("2001:db8:c::1"))
			l.wantBans("2001:db8:c::1")
			l.Cut(addr("2001:db8:c::1"))
			l.Served(addr("2001:db8:c::2"))
			l.Offend(addr("2001:db8:e::1"))
			l.wantBans("2001:db8:c::1", "2001:db8:e::/64")
			// What the packet path has learnt stays, whatever is applied.
			own := netip.PrefixFrom(l.Link.B.IPv6, ownLen).Masked().Addr().String()
			l.knows("2001:db8:b::", "2001:db8:c::", own)
			spec.Own6 = spec.Own6[1:2]
			l.apply(spec)
			l.knows("2001:db8:b::", "2001:db8:c::", own)
			spec.Own6 = nil
			l.apply(spec)
			l.knows("2001:db8:b::", "2001:db8:c::", own)
		})
	}
}

// TestOwn6OfAFullSet has room for one more network.
func TestOwn6OfAFullSet(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	var held []nftset.Element
	for i := range ownSize - 1 {
		held = append(held, nftset.Addr(addr(fmt.Sprintf("2001:db8:f:%x::", i))))
	}
	l.addMany(setOwn6, held)
	spec := trapSpec()
	spec.Own6 = []netip.Prefix{prefix("2001:db8:a::/64"), prefix("2001:db8:b::/64")}
	l.apply(spec)
	if a, b := l.sourceOf("2001:db8:a::1"), l.sourceOf("2001:db8:b::1"); !a.IsSingleIP() || b.IsSingleIP() {
		t.Errorf("the sources are %v and %v, want the first alone by itself", a, b)
	}
	if p := l.prepare(spec); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}
}
