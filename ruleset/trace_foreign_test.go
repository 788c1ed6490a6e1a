package ruleset

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// foreignRules are rules of others, and whether Trace knows what they do.
var foreignRules = []struct {
	known bool
	rule  string
}{
	{true, `iifname "eth0" accept`},
	{true, `iifname "eth*" accept`},
	{true, `iifname "wg*" accept`},
	{true, `iifname != "eth1" drop`},
	{true, `iif "eth0" accept`},
	{true, `iif lo accept`},
	{true, `meta nfproto ipv6 accept`},
	{true, `ip protocol tcp accept`},
	{true, `ip6 nexthdr tcp accept`},
	{true, `ip protocol icmp accept`},
	{true, `tcp dport > 79 accept`},
	{true, `tcp dport < 80 accept`},
	{true, `tcp dport @mine accept`},
	{true, `ip saddr 198.18.0.0/15 ip daddr 192.0.2.2 accept`},
	{true, `tcp flags syn accept`},
	{true, `ct state new accept`},
	{true, `ct state invalid accept`},
	{true, `ct direction original accept`},
	{true, `fib daddr type local accept`},
	{true, `iif != lo fib saddr type != local accept`},
	{true, `ip saddr 198.18.0.0/15 delete @ban4 { ip saddr }`},
	{false, `meta mark 0 accept`},
	{false, `meta mark 5 accept`},
	{false, `meta mark 5 drop`},
	{false, `meta pkttype host accept`},
	{false, `meta pkttype host return`},
	{false, `meta pkttype host goto banned`},
	{false, `meta length 0-1500 accept`},
	{false, `tcp sport > 0 accept`},
	{false, `tcp sport . tcp dport @pairs accept`},
	{false, `tcp dport { 22, 80 } accept`},
	{false, `tcp dport vmap { 80 : accept }`},
	{false, `tcp dport != 1-20 accept`},
	{false, `ip saddr . tcp dport { 198.18.0.1 . 80 } accept`},
	{false, `ip ttl > 0 accept`},
	{false, `ip6 hoplimit > 0 accept`},
	{false, `numgen inc mod 2 0 accept`},
	{false, `quota until 10 mbytes accept`},
	{false, `tcp option maxseg missing accept`},
	{false, `notrack`},
	{false, `meta nftrace set 0`},
	{false, `quota over 10 mbytes counter`},
	{false, `tcp dport != 1-20 counter`},
	{false, `meta pkttype host counter`},
	{false, `ip saddr 198.18.0.0/15 meta pkttype host delete @ban4 { ip saddr }`},
}

// TestTraceOfRulesOfOthers sends packets past rules that Trace must either
// evaluate or say that it does not.
func TestTraceOfRulesOfOthers(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Prefix6 = 128
	l := newTrap(t, spec)
	l.NFT(`
table inet portmon {
	set mine { type inet_service; elements = { 80 } }
	set pairs { type inet_service . inet_service; }
}`)
	var eth0 *net.Interface
	l.Host.Do(func() {
		var err error
		if eth0, err = net.InterfaceByName(l.Link.B.Dev); err != nil {
			t.Error(err)
		}
	})
	for _, foreign := range foreignRules {
		t.Run(strings.NewReplacer("/", "|", `"`, "").Replace(foreign.rule), func(t *testing.T) {
			l.with(t).families(func(l *fixture, f family) {
				unknown, t := 0, l.T
				for _, chain := range []string{chainEarly, chainGuard, chainOpening} {
					l.NFT("insert rule inet portmon " + chain + " " + foreign.rule)
					h := l.open()
					banned, other := l.source(f), l.source(f)
					for _, p := range []Packet{
						{From: banned, Port: lab.OpenTCP}, {From: banned, Port: 443}, {From: other, Port: lab.OpenTCP}, {From: other, Port: lab.TrapTCP},
					} {
						l.ban(time.Hour, netip.PrefixFrom(banned, banned.BitLen()).String())
						p.To, p.Proto, p.ToSelf, p.RouteBack = l.To(p.From, p.Port).Addr(), unix.IPPROTO_TCP, true, true
						p.Device, p.Index, p.Listener = eth0.Name, uint32(eth0.Index), p.Port == lab.OpenTCP
						trace, err := h.Trace(p)
						if err != nil {
							t.Fatal(err)
						}
						dropped := l.Probe(p.From, p.Port).Kind == netnstest.NoAnswer
						if trace.NotKnown {
							unknown++
							if trace.OtherChain != chain || trace.Because != OtherRule || trace.Dropped || trace.Ban != nil {
								t.Errorf("chain %s: got %+v", chain, trace)
							}
						} else if chain != chainOpening && (trace.Because == AskLoopback || trace.Because == AskToThisHost) {
							t.Errorf("chain %s: for a reason that it is not: %+v", chain, trace)
						} else if trace.Dropped != dropped {
							t.Errorf("chain %s, port %d from %v (banned: %t): dropped is %t, Trace says %+v",
								chain, p.Port, p.From, p.From == banned, dropped, trace)
						}
						l.forgive()
					}
					l.apply(spec)
				}
				otherFamily := strings.HasPrefix(foreign.rule, map[bool]string{true: "ip ", false: "ip6 "}[f.is6()])
				if known := foreign.known || otherFamily; known != (unknown == 0) {
					t.Errorf("of %d packets it was not known", unknown)
				}
			})
		})
	}
}

// TestEveryOwnRuleIsUnderstood also asks about packets of which little is known.
func TestEveryOwnRuleIsUnderstood(t *testing.T) {
	for name, spec := range specs() {
		table := compile(spec, askedNets{true, true})
		h := &Handle{State: &State{Table: table.Table}}
		for _, set := range table.Sets {
			h.Sets = append(h.Sets, set.Set)
		}
		for _, p := range []Packet{
			{From: addr("203.0.113.7"), Proto: unix.IPPROTO_TCP}, {From: addr("2001:db8::7"), Proto: unix.IPPROTO_TCP},
			{From: addr("203.0.113.7"), Proto: unix.IPPROTO_UDP}, {From: addr("2001:db8::7"), Proto: unix.IPPROTO_UDP},
			{From: addr("203.0.113.7"), Proto: unix.IPPROTO_ICMP}, {From: addr("2001:db8::7"), Proto: unix.IPPROTO_ICMPV6},
		} {
			for _, chain := range table.Chains {
				if chain.Name == chainKnockPort {
					p.Port = 1 // what comes here has a port that is in a set
				}
				for _, r := range chain.Rules {
					if _, whole := interfaceOf(chain.Name, fromKernel(t, r).Exprs); whole {
						continue // Trace does not look at its parts
					}
					if !understood(t, &tracer{h: h, p: p, tracked: true}, fromKernel(t, r)) {
						t.Errorf("%s: chain %s: %v: not understood of %v", name, chain.Name, r, p)
					}
				}
			}
		}
	}
}

// understood evaluates a rule as if each set that is asked had the answer by
// which it goes on.
func understood(t *testing.T, tr *tracer, r Rule) bool {
	t.Helper()
	for _, e := range r.Exprs {
		matches, err := true, error(nil)
		switch e := e.(type) {
		case *expr.Verdict:
		case *expr.Lookup:
			if tr.h.Set(e.SetName) == nil || !isOurs(e.SetName) || e.IsDestRegSet {
				return false
			}
		case *expr.Dynset:
			if tr.h.Set(e.SetName) == nil || !isOurs(e.SetName) {
				return false
			}
		default:
			matches, err = tr.evaluate(e)
		}
		switch {
		case errors.Is(err, errNotKnown):
			return false
		case err != nil:
			t.Fatal(err)
		case !matches:
			return true
		}
	}
	return true
}
