package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// receive asks for the elements of a set and reads the answer to its end, looking only for that.
func receive([]string) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	var n int
	read := func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buf)
		return !errors.Is(err, unix.EAGAIN)
	}
	// The kernel makes datagrams as large as the largest buffer that a reader has shown it. So it is shown one before it is asked.
	if controlErr := raw.Control(func(fd uintptr) { read(fd) }); controlErr != nil {
		return controlErr
	}
	if err := askForElements(c); err != nil {
		return err
	}
	for {
		if readErr := raw.Read(read); readErr != nil {
			return readErr
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return fmt.Errorf("read set: %w", syscall.Errno(-int32(binary.NativeEndian.Uint32(b[16:]))))
			}
			length := int(binary.NativeEndian.Uint32(b)+unix.NLMSG_ALIGNTO-1) &^ (unix.NLMSG_ALIGNTO - 1)
			b = b[min(length, len(b)):]
		}
	}
}

func askForElements(c *netlink.Conn) error {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, firstTier.Table.Name)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, firstTier.Name)
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = c.Send(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{byte(firstTier.Table.Family), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	return err
}
