package ruleset

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// TestInterfaceIsWhitelisted has a host behind each of two links, of which one is
// whitelisted by its name, or by the beginning of it.
func TestInterfaceIsWhitelisted(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		interfaces []string
		spared     bool
	}{
		"exact":                {[]string{"eth1"}, true},
		"beginning":            {[]string{"wg*", "eth1*"}, true},
		"the beginning is not": {[]string{"eth"}, false},
		"longer":               {[]string{"eth10", "eth10*"}, false},
		"missing":              {[]string{"wg0"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			spec := trapSpec()
			spec.Scan.Ports, spec.Interfaces = 1, tt.interfaces
			l := newLab(t)
			vpn := l.with(t)
			vpn.Internet = netnstest.NewHost(t, "vpn")
			vpn.Link = netnstest.Connect(t, vpn.Internet, l.Host, "203.0.113.0/24", "2001:db8:f00::/64")
			if vpn.Link.B.Dev != "eth1" {
				t.Fatalf("the second link is %s", vpn.Link.B.Dev)
			}
			l.apply(spec)
			l.families(func(l *fixture, f family) {
				vpn := vpn.with(l.T)
				member, bystander := addr("203.0.113.1"), l.source(f)
				if f.is6() {
					member = addr("2001:db8:f00::1")
				}
				devices := []string{"eth0", ""}
				l.Offend(bystander)
				before := l.counters()
				if !tt.spared {
					vpn.Offend(member)
					vpn.Cut(member)
					l.traceOf(member, "eth1", AskBanned)
					return
				}
				vpn.traceOf(member, "eth1", AskInterface)
				vpn.Visit(member)
				vpn.harmless(member)
				vpn.banHere(member)
				vpn.Visit(member)
				vpn.harmless(member)
				vpn.traceOf(member, "eth1", AskInterface)
				l.wantCounts(before, nil)
				l.Cut(bystander)
				for _, dev := range devices {
					l.traceOf(bystander, dev, AskBanned)
				}
			})
		})
	}
}

// banHere bans a source in every way that a packet may find.
func (l *fixture) banHere(src netip.Addr) {
	l.T.Helper()
	l.ban(lab.Patience, cidr(banOf(src)), netip.PrefixFrom(src, src.BitLen()-4).Masked().String())
}

// traceOf fails the test unless that settles what becomes of a packet to a trap.
func (l *fixture) traceOf(src netip.Addr, device string, because string) {
	l.T.Helper()
	p := Packet{
		From: src, To: l.To(src, 0).Addr(), Port: lab.TrapTCP, Proto: unix.IPPROTO_TCP, ToSelf: true, RouteBack: true, Device: device,
	}
	if device != "" {
		p.Index = 2 // whatever it is, it is not lo
	}
	t, err := l.open().Trace(p)
	if err != nil {
		l.T.Fatal(err)
	}
	if t.Because != because || t.Dropped != (because == AskBanned) {
		l.T.Errorf("a packet of %v by %q is dropped: %v, because %q: want %q", src, device, t.Dropped, t.Because, because)
	}
}

// TestInterfaceByBeginning has a name of which less is given than there is.
func TestInterfaceByBeginning(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Scan.Ports = 1
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		for name, spared := range map[string]bool{"et*": true, "ethx*": false} {
			spec := spec
			spec.Interfaces = []string{name}
			l.apply(spec)
			if src := l.source(f); spared {
				l.harmless(src)
				l.Visit(src)
			} else {
				l.Offend(src)
				l.Cut(src)
			}
		}
	})
}
