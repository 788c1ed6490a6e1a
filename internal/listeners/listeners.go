// Package listeners finds the ports on which programs of this host wait for
// packets from anybody.
package listeners

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket is a local socket that waits for packets from anybody.
type Socket struct {
	Proto string // "tcp" or "udp"
	// Addr is where it listens. The address is unspecified, 0.0.0.0 or ::, for
	// one that listens on all of the host's; one on :: takes IPv4 as well,
	// unless Only6.
	Addr netip.AddrPort
	// Device is the interface that it is bound to, "" if to none or if that is
	// not known.
	Device string
	Only6  bool
	// Peer is the other end of one that is connected.
	Peer netip.AddrPort
}

// Takes reports whether the socket gets packets to an address, by any interface
// if it is bound to none.
func (s Socket) Takes(to netip.AddrPort, device string) bool {
	if s.Addr.Port() != to.Port() || s.Device != "" && s.Device != device {
		return false
	}
	a := s.Addr.Addr()
	if !a.IsUnspecified() {
		return a == to.Addr()
	}
	return a.Is4() == to.Addr().Is4() || a.Is6() && !s.Only6
}

// What linux/sock_diag.h and linux/inet_diag.h define.
const (
	sockDiagByFamily = 20
	diagV6Only       = 11 // INET_DIAG_SKV6ONLY
	diagRequestLen   = 56 // struct inet_diag_req_v2
	diagMessageLen   = 72 // struct inet_diag_msg
)

// kind is a kind of sockets. States are numbered by include/net/tcp_states.h.
type kind struct {
	family, protocol byte
	name             string
	state            uint32
}

// waiting are the kinds of sockets that wait for packets from anybody, and
// connected those of TCP that are connected.
var waiting, connected = []kind{
	{unix.AF_INET, unix.IPPROTO_TCP, "tcp", 10}, // TCP_LISTEN
	{unix.AF_INET6, unix.IPPROTO_TCP, "tcp", 10},
	{unix.AF_INET, unix.IPPROTO_UDP, "udp", 7}, // TCP_CLOSE, which for UDP means not connected
	{unix.AF_INET6, unix.IPPROTO_UDP, "udp", 7},
}, []kind{
	{unix.AF_INET, unix.IPPROTO_TCP, "tcp", 1}, // TCP_ESTABLISHED
	{unix.AF_INET6, unix.IPPROTO_TCP, "tcp", 1},
}

// Read asks the kernel for the sockets of the calling thread's network
// namespace and of a protocol, "tcp" or "udp", as ss(8) does. It needs no
// privilege, but the kernel's module tcp_diag or udp_diag.
func Read(proto string) ([]Socket, error) { return read(proto, waiting) }

// Connected is [Read] for TCP sockets that are connected.
func Connected() ([]Socket, error) { return read("tcp", connected) }

func read(proto string, kinds []kind) ([]Socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer conn.Close()
	var all []Socket
	for _, k := range kinds {
		if k.name != proto {
			continue
		}
		request := make([]byte, diagRequestLen)
		request[0], request[1] = k.family, k.protocol
		binary.NativeEndian.PutUint32(request[4:], 1<<k.state)
		msgs, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   request,
		})
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("list %s sockets: the kernel has no %s_diag (CONFIG_INET_%s_DIAG): %w",
				k.name, k.name, strings.ToUpper(k.name), err)
		}
		if err != nil {
			return nil, fmt.Errorf("list %s sockets: %w", k.name, err)
		}
		for _, m := range msgs {
			s, err := parseDiag(m.Data)
			if err != nil {
				return nil, fmt.Errorf("list %s sockets: %w", k.name, err)
			}
			s.Proto = k.name
			all = append(all, s)
		}
	}
	return all, nil
}

// parseDiag reads a struct inet_diag_msg and the attributes behind it.
func parseDiag(b []byte) (Socket, error) {
	if len(b) < diagMessageLen {
		return Socket{}, fmt.Errorf("socket description of %d bytes", len(b))
	}
	n := 4
	if b[0] == unix.AF_INET6 {
		n = 16
	}
	addr, _ := netip.AddrFromSlice(b[8 : 8+n])
	peer, _ := netip.AddrFromSlice(b[24 : 24+n])
	s := Socket{Addr: netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[4:]))}
	if port := binary.BigEndian.Uint16(b[6:]); port != 0 {
		s.Peer = netip.AddrPortFrom(peer.Unmap(), port)
	}
	if index := binary.NativeEndian.Uint32(b[40:]); index != 0 {
		s.Device = deviceName(index)
	}
	attrs, err := netlink.UnmarshalAttributes(b[diagMessageLen:])
	for _, a := range attrs {
		if a.Type == diagV6Only && len(a.Data) == 1 {
			s.Only6 = a.Data[0] != 0
		}
	}
	return s, err
}

func deviceName(index uint32) string {
	dev, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return strconv.FormatUint(uint64(index), 10) // it has gone since
	}
	return dev.Name
}
