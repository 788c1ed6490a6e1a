package nflog

import (
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// What another program sends to the socket is no message of the kernel's,
// whatever it looks like.
func TestForgedMessage(t *testing.T) {
	l := newLab(t)
	c := l.dial(0)
	other, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: l.Host.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	prefix := append([]byte("portmon trap 1"), 0)
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: attrPrefix, Data: prefix}})
	if err != nil {
		t.Fatal(err)
	}
	m := netlink.Message{Header: netlink.Header{Type: msgPacket}, Data: append(make([]byte, nfnl.GenHeaderLen), attrs...)}
	m.Header.Length = uint32(unix.SizeofNlMsghdr + len(m.Data))
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := other.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	send := func() {
		t.Helper()
		var serr error
		if err := raw.Write(func(fd uintptr) bool {
			serr = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: c.wire.PortID()})
			return true
		}); err != nil || serr != nil {
			t.Fatal(err, serr)
		}
	}
	send()
	l.knock(1)
	send()
	batch, _ := receive(t, c, 1)
	if m := batch[0]; m.Prefix != "portmon ban" || !m.Src.IsValid() {
		t.Errorf("got %+v, want what the rule logs", m)
	}
}
