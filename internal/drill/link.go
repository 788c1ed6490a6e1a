package drill

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	vethPeer = 1 // VETH_INFO_PEER of linux/veth.h
	operUp   = 6 // IF_OPER_UP of linux/if.h
)

// The MAC addresses of both ends: each knows the other's beforehand, so that no
// rule about neighbour discovery has a say.
var hostMAC, guestMAC = []byte{2, 0, 'p', 'm', 'd', 1}, []byte{2, 0, 'p', 'm', 'd', 2}

// rtnl is a socket for changes of links, addresses and routes.
type rtnl struct{ *netlink.Conn }

func dialRTNL() (rtnl, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return rtnl{}, fmt.Errorf("open netlink socket: %w", err)
	}
	return rtnl{conn}, nil
}

// do sends one request and waits until it is done. header is the struct that
// comes before the attributes, in the byte order of the host.
func (r rtnl) do(kind netlink.HeaderType, flags netlink.HeaderFlags, header []byte, add func(*netlink.AttributeEncoder)) error {
	ae := netlink.NewAttributeEncoder()
	add(ae)
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = r.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(header, attrs...),
	})
	return err
}

// ifinfo is a struct ifinfomsg.
func ifinfo(index int, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(b[4:], uint32(index))
	native.PutUint32(b[8:], flags)
	native.PutUint32(b[12:], flags) // which of them to change
	return b
}

// addPair makes a veth pair, whose other end is in the network namespace of a
// thread. The error is [unix.EEXIST] if the name is taken.
func (r rtnl) addPair(name string, tid int) error {
	return r.do(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, ifinfo(0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
		ae.Bytes(unix.IFLA_ADDRESS, hostMAC)
		ae.Nested(unix.IFLA_LINKINFO, func(info *netlink.AttributeEncoder) error {
			info.String(unix.IFLA_INFO_KIND, "veth")
			info.Nested(unix.IFLA_INFO_DATA, func(data *netlink.AttributeEncoder) error {
				peer := netlink.NewAttributeEncoder()
				peer.String(unix.IFLA_IFNAME, guestDev)
				peer.Bytes(unix.IFLA_ADDRESS, guestMAC)
				peer.Uint32(unix.IFLA_NET_NS_PID, uint32(tid))
				attrs, err := peer.Encode()
				data.Bytes(vethPeer, append(ifinfo(0, 0), attrs...))
				return err
			})
			return nil
		})
	})
}

func (r rtnl) setUp(index int) error {
	return r.do(unix.RTM_NEWLINK, 0, ifinfo(index, unix.IFF_UP), func(*netlink.AttributeEncoder) {})
}

func (r rtnl) remove(index int) error {
	return r.do(unix.RTM_DELLINK, 0, ifinfo(index, 0), func(*netlink.AttributeEncoder) {})
}

// connect gives an interface an address of its own, and makes the one at the
// other end known. Both are alone: no network comes with them, which others
// could take for one of this host.
func (r rtnl) connect(index int, own, other netip.Addr, mac []byte) error {
	family, bits := byte(unix.AF_INET), byte(own.BitLen())
	if own.Is6() {
		family = unix.AF_INET6
	}
	address := append([]byte{family, bits, unix.IFA_F_NODAD, 0}, native.AppendUint32(nil, uint32(index))...) // struct ifaddrmsg
	err := r.do(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, address, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.IFA_LOCAL, own.AsSlice())
		ae.Bytes(unix.IFA_ADDRESS, own.AsSlice())
	})
	if err != nil {
		return fmt.Errorf("add address %s: %w", own, err)
	}
	neighbour := make([]byte, unix.SizeofNdMsg)
	neighbour[0] = family
	native.PutUint32(neighbour[4:], uint32(index))
	native.PutUint16(neighbour[8:], unix.NUD_PERMANENT)
	err = r.do(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace, neighbour, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.NDA_DST, other.AsSlice())
		ae.Bytes(unix.NDA_LLADDR, mac)
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", other, err)
	}
	route := []byte{ // struct rtmsg
		family, bits, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0,
	}
	err = r.do(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, route, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, other.AsSlice())
		ae.Uint32(unix.RTA_OIF, uint32(index))
	})
	if err != nil {
		return fmt.Errorf("add route to %s: %w", other, err)
	}
	return nil
}

// isUp reports whether an interface passes packets. One that was up before
// the other end drops them until the kernel has come round to it.
func (r rtnl) isUp(index int) (up bool, err error) {
	msgs, err := r.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: ifinfo(index, 0),
	})
	if err != nil || len(msgs) != 1 || len(msgs[0].Data) < unix.SizeofIfInfomsg {
		return false, err
	}
	ad, err := netlink.NewAttributeDecoder(msgs[0].Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return false, err
	}
	for ad.Next() {
		up = up || ad.Type() == unix.IFLA_OPERSTATE && ad.Uint8() == operUp
	}
	return up, ad.Err()
}

// hasNoFamily reports whether an error means that the host does not speak a
// family.
func hasNoFamily(err error) bool {
	for _, none := range []error{unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.EPFNOSUPPORT, unix.EACCES} {
		if errors.Is(err, none) {
			return true
		}
	}
	return false
}
