package nflog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// Types of messages: enum nfulnl_msg_types of
// include/uapi/linux/netfilter/nfnetlink_log.h.
const (
	msgPacket = unix.NFNL_SUBSYS_ULOG << 8   // NFULNL_MSG_PACKET
	msgConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG
)

// Attributes of an NFULNL_MSG_CONFIG, and their values: enum nfulnl_attr_config
// of the same file.
const (
	cfgCommand   = 1 // NFULA_CFG_CMD: struct nfulnl_msg_config_cmd
	cfgMode      = 2 // NFULA_CFG_MODE: struct nfulnl_msg_config_mode
	cfgDatagram  = 3 // NFULA_CFG_NLBUFSIZ
	cfgDelay     = 4 // NFULA_CFG_TIMEOUT
	cfgThreshold = 5 // NFULA_CFG_QTHRESH
	cfgFlags     = 6 // NFULA_CFG_FLAGS

	commandBind   = 1 // NFULNL_CFG_CMD_BIND
	commandUnbind = 2 // NFULNL_CFG_CMD_UNBIND
	copyPacket    = 2 // NFULNL_COPY_PACKET
	flagSeq       = 1 // NFULNL_CFG_F_SEQ
)

// How the kernel is asked to send messages. Rules may ask for less with
// `snaplen` and `queue-threshold`, not for more.
const (
	copyRange    = 256      // bytes of each packet: its headers, with options and extensions
	delay        = 1        // hundredths of a second that a message may wait for others to come with it
	threshold    = 64       // messages that are sent without waiting for more
	datagramSize = 16 << 10 // bytes, which that many messages fit into; the kernel takes at most 128 KiB
)

// settings are the attributes of the message that binds a group. All is said in
// this one message, because packets may be logged from then on.
func settings() ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Uint8(cfgCommand, commandBind)
	ae.Bytes(cfgMode, append(binary.BigEndian.AppendUint32(nil, copyRange), copyPacket, 0))
	ae.Uint32(cfgDatagram, datagramSize)
	ae.Uint32(cfgDelay, delay)
	ae.Uint32(cfgThreshold, threshold)
	ae.Uint16(cfgFlags, flagSeq)
	return ae.Encode()
}

// bind makes the connection the listener of a group.
func (c *Conn) bind(group uint16) error {
	attrs, err := settings()
	if err != nil {
		return err
	}
	err = c.request(msgConfig, group, attrs)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	// The kernel returns EPERM also if another socket has the group. A caller
	// with the privilege gets another error for a message that only the kernel
	// sends.
	if errors.Is(c.request(msgPacket, group, nil), unix.EPERM) {
		return err
	}
	return ErrBusy
}

// Unbind stops listening. Receive still returns what was logged before, also
// what the kernel was holding back, and then io.EOF. It may be called while
// another goroutine receives.
func (c *Conn) Unbind() error {
	ae := netlink.NewAttributeEncoder()
	ae.Uint8(cfgCommand, commandUnbind)
	attrs, err := ae.Encode()
	if err == nil {
		attrs, err = message(msgConfig, c.group, attrs)
	}
	if err == nil {
		err = c.wire.Send(attrs)
	}
	if err != nil {
		return fmt.Errorf("stop listening to netlink log group %d: %w", c.group, err)
	}
	return nil
}

// message returns a message that the kernel is to acknowledge.
func message(typ netlink.HeaderType, group uint16, attrs []byte) ([]byte, error) {
	m := netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(group >> 8), byte(group)}, attrs...),
	}
	m.Header.Length = uint32(nfnl.HeaderLen + len(m.Data))
	return m.MarshalBinary()
}

// request sends a message and returns the kernel's verdict. Packets that are
// logged meanwhile are kept for Receive.
func (c *Conn) request(typ netlink.HeaderType, group uint16, attrs []byte) error {
	b, err := message(typ, group, attrs)
	if err != nil {
		return err
	}
	answered, verdict := false, errors.New("the kernel gave no answer")
	err = c.wire.Exchange(func(m nfnl.Message) (err error) {
		if m.Type == unix.NLMSG_ERROR {
			answered, verdict = true, m.Errno()
			return nil
		}
		c.early, err = c.take(c.early, m)
		return err
	}, b)
	if err != nil && !(answered && errors.Is(err, unix.ENOBUFS)) { // else packets were lost, not the answer
		return err
	}
	return verdict
}
