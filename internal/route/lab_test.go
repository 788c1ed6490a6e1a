package route

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// The networks of the two uplinks, which are eth0 and eth1 of the host, and
// where the strangers are whose packets come in by them.
var networks = [2][2]string{
	{"192.0.2.0/24", "2001:db8:1::/64"},
	{"198.51.100.0/24", "2001:db8:2::/64"},
}

var everywhere = map[int]string{unix.AF_INET: "0.0.0.0/0", unix.AF_INET6: "::/0"}

// lab is a host with two uplinks and no routes but those to its own networks.
type lab struct {
	t    *testing.T
	host *netnstest.Host
	up   [2]*netnstest.Link // A is the provider's end
	rtnl *vnl.Handle
	nft  *nftables.Conn

	table  *nftables.Table
	chains [2]*nftables.Chain // the judging one, and the one that counts what goes out
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, host: netnstest.NewHost(t, "host")}
	for i := range l.up {
		l.up[i] = netnstest.Connect(t, netnstest.NewHost(t, "provider"), l.host, networks[i][0], networks[i][1])
	}
	var err error
	l.rtnl, err = vnl.NewHandleAt(netns.NsHandle(l.host.FD()))
	l.check(err)
	t.Cleanup(l.rtnl.Close)
	l.nft, err = nftables.New(nftables.WithNetNSFd(l.host.FD()))
	l.check(err)
	l.judge()
	return l
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// judge puts the test into the kernel, where portmon's table asks it:
//
//	table inet lab {
//		chain prerouting {
//			type filter hook prerouting priority -99; policy accept;
//			tcp flags syn fib saddr . mark . iif oif missing counter
//		}
//		chain postrouting {
//			type filter hook postrouting priority 0; policy accept;
//			oif eth0 counter
//			oif eth1 counter
//		}
//	}
func (l *lab) judge() {
	l.t.Helper()
	l.table = l.nft.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyINet})
	l.chains[0] = l.chain("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -99)
	l.chains[1] = l.chain("postrouting", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, 0)
	l.rule(l.chains[0],
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(netnstest.FlagSYN)}},
		&expr.Fib{Register: 1, FlagSADDR: true, FlagMARK: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: number(0)},
		&expr.Counter{})
	for _, up := range l.up {
		l.rule(l.chains[1],
			&expr.Meta{Key: expr.MetaKeyOIF, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: number(uint32(up.B.Index))},
			// What kernels say of themselves is not of interest.
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Counter{})
	}
	l.check(l.nft.Flush())
}

func number(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

func (l *lab) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	return l.nft.AddChain(&nftables.Chain{Name: name, Table: l.table, Type: kind, Hooknum: hook, Priority: &priority})
}

func (l *lab) rule(chain *nftables.Chain, exprs ...expr.Any) {
	l.nft.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: exprs})
}

// counters returns the packets of the counters: without a route back, out by
// eth0, out by eth1.
func (l *lab) counters() (counts []int) {
	l.t.Helper()
	for _, chain := range l.chains {
		rules, err := l.nft.GetRules(l.table, chain)
		l.check(err)
		for _, r := range rules {
			counts = append(counts, int(r.Exprs[len(r.Exprs)-1].(*expr.Counter).Packets))
		}
	}
	return counts
}

// strangers is how many sources are tried; so many that a choice by hash is
// never the same for all.
const strangers = 64

// outcome is what became of a SYN of each stranger.
type outcome struct {
	missing int    // for these the kernel says that there is no route back
	back    [2]int // the answers to so many went out by eth0, by eth1
}

// try has strangers send SYNs to a closed port of the host, by one uplink, to
// the host's address there.
func (l *lab) try(family, uplink int) (o outcome) {
	l.t.Helper()
	before := l.counters()
	up, to := l.up[uplink], addr(l.up[uplink].B, family)
	up.A.Host.Burst(strangers, func(i int) netnstest.Packet {
		p := netnstest.SYN(stranger(family, i), netip.AddrPortFrom(to, 23))
		p.Src = netip.AddrPortFrom(p.Src.Addr(), uint16(40000+i))
		return p
	})
	for i, n := range l.counters() {
		before[i] = n - before[i]
	}
	return outcome{before[0], [2]int{before[1], before[2]}}
}

func stranger(family, i int) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + i)})
	}
	b := netip.MustParseAddr("2001:db8:f00d::1").As16()
	binary.BigEndian.PutUint16(b[6:], uint16(i))
	return netip.AddrFrom16(b)
}

// addr returns an address of one end of an uplink.
func addr(e netnstest.End, family int) netip.Addr {
	if family == unix.AF_INET {
		return e.IPv4
	}
	return e.IPv6
}

// route adds a route for everybody by one uplink, or a multipath route if
// several are given.
func (l *lab) route(family, table, metric int, uplinks ...int) {
	l.t.Helper()
	l.routeTo(everywhere[family], table, metric, uplinks...)
}

// routeTo is route for another destination.
func (l *lab) routeTo(dst string, table, metric int, uplinks ...int) {
	l.t.Helper()
	r := &vnl.Route{Dst: network(dst), Table: table, Priority: metric, Family: unix.AF_INET}
	if netip.MustParsePrefix(dst).Addr().Is6() {
		r.Family = unix.AF_INET6
	}
	for _, u := range uplinks {
		gateway := addr(l.up[u].A, r.Family).AsSlice()
		r.MultiPath = append(r.MultiPath, &vnl.NexthopInfo{LinkIndex: l.up[u].B.Index, Gw: gateway})
	}
	if len(uplinks) == 1 {
		r.Gw, r.LinkIndex, r.MultiPath = r.MultiPath[0].Gw, r.MultiPath[0].LinkIndex, nil
	}
	// Unlike to add, to append leaves those of the same metric in place.
	l.check(l.rtnl.RouteAppend(r))
}

func network(prefix string) *net.IPNet {
	_, n, err := net.ParseCIDR(prefix)
	if err != nil {
		panic(err)
	}
	return n
}

// policy adds a rule that leads to table 100.
func (l *lab) policy(family int, set func(*vnl.Rule)) {
	l.t.Helper()
	r := vnl.NewRule()
	r.Family, r.Table, r.Priority = family, 100, 1000
	set(r)
	l.check(l.rtnl.RuleAdd(r))
}

// mark has what comes in by eth1 marked with 2, and what goes out with what its
// connection is marked with. Packets of incoming connections are marked as well
// if all is set: by default only their connections are.
//
//	chain mangle {
//		type filter hook prerouting priority -150; policy accept;
//		iif eth1 ct mark set 2
//		meta mark set ct mark # if all
//	}
//	chain out {
//		type route hook output priority -150; policy accept;
//		meta mark set ct mark
//	}
func (l *lab) mark(all bool) {
	l.t.Helper()
	restore := []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
	mangle := l.chain("mangle", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150)
	l.rule(mangle,
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: number(uint32(l.up[1].B.Index))},
		&expr.Immediate{Register: 1, Data: number(2)},
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1})
	if all {
		l.rule(mangle, restore...)
	}
	l.rule(l.chain("out", nftables.ChainTypeRoute, nftables.ChainHookOutput, -150), restore...)
	l.check(l.nft.Flush())
}
