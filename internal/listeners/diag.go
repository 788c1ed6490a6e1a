package listeners

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What linux/sock_diag.h and linux/inet_diag.h define.
const (
	sockDiagByFamily = 20
	diagV6Only       = 11 // INET_DIAG_SKV6ONLY
	diagRequestLen   = 56 // struct inet_diag_req_v2
	diagMessageLen   = 72 // struct inet_diag_msg
)

// kinds are the kinds of sockets that wait for packets. state is that of a
// socket which does, as include/net/tcp_states.h numbers them.
var kinds = []struct {
	family, protocol byte
	name             string
	state            uint32
}{
	{unix.AF_INET, unix.IPPROTO_TCP, "tcp", 10}, // TCP_LISTEN
	{unix.AF_INET6, unix.IPPROTO_TCP, "tcp", 10},
	{unix.AF_INET, unix.IPPROTO_UDP, "udp", 7}, // TCP_CLOSE, which for UDP means not connected
	{unix.AF_INET6, unix.IPPROTO_UDP, "udp", 7},
}

// diagnose asks the kernel for the sockets, as ss(8) does. A kernel without the
// modules for it says ENOENT.
func diagnose() ([]Socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var all []Socket
	for _, k := range kinds {
		request := make([]byte, diagRequestLen)
		request[0], request[1] = k.family, k.protocol
		binary.NativeEndian.PutUint32(request[4:], 1<<k.state)
		msgs, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   request,
		})
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			s, err := parseDiag(m.Data)
			if err != nil {
				return nil, err
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
	s := Socket{Addr: netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[4:]))}
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
