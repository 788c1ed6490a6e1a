package lab

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// natTable is the name of the table that DNAT puts its rules in: one of family
// ip, one of ip6.
const natTable = "published"

// DNAT publishes a service behind a host as container engines do: what comes by
// proto, "tcp" or "udp", to the port of any address of the host goes on to the
// service, which is published for its own IP family. The host must Forward, and
// the service's answers must come back by it. In nft syntax, the rule is
//
//	table ip published {
//		chain prerouting {
//			type nat hook prerouting priority dstnat; policy accept;
//			fib daddr type local tcp dport 8080 dnat to 198.51.100.2:80
//		}
//	}
func DNAT(t testing.TB, h *netnstest.Host, proto string, port uint16, service netip.AddrPort) {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(h.FD()))
	if err != nil {
		t.Fatalf("open nftables: %v", err)
	}
	transport, family := byte(unix.IPPROTO_TCP), nftables.TableFamilyIPv4
	if proto == "udp" {
		transport = unix.IPPROTO_UDP
	}
	if service.Addr().Is6() {
		family = nftables.TableFamilyIPv6
	}
	table := conn.AddTable(&nftables.Table{Name: natTable, Family: family})
	chain := conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: dnatExprs(transport, port, service)})
	if err := conn.Flush(); err != nil {
		t.Fatalf("publish %s port %d: %v", proto, port, err)
	}
}

func dnatExprs(transport byte, port uint16, service netip.AddrPort) []expr.Any {
	family := uint32(unix.NFPROTO_IPV4)
	if service.Addr().Is6() {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		// fib daddr type local
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		// meta l4proto transport
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{transport}},
		// th dport port
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		// dnat to
		&expr.Immediate{Register: 1, Data: service.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, service.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: 2},
	}
}
