package netnstest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Exchange sends a few bytes by "tcp" or "udp" to an echo server, from an
// address of the host, any if from is the zero Addr, and returns nil if they
// come back. For a closed port the error is ECONNREFUSED. Where no answer is
// expected, Probe tells without waiting for the timeout, and for certain.
func (h *Host) Exchange(network string, from netip.Addr, to netip.AddrPort, timeout time.Duration) error {
	h.t.Helper()
	conn, err := h.Dial(network, from, to, timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(timeout)) // no error on an open socket
	return Echo(conn)
}

// Dial connects to an address by "tcp" or "udp" from an address of the host,
// any if from is the zero Addr. The connection stays in the host's namespace
// wherever it is used. It is closed when the test ends, if it is not yet.
func (h *Host) Dial(network string, from netip.Addr, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	h.t.Helper()
	dialer := net.Dialer{Timeout: timeout}
	if from.IsValid() {
		local := netip.AddrPortFrom(from, 0)
		if network == "udp" {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
		} else {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(local)
		}
	}
	var (
		conn net.Conn
		err  error
	)
	h.Do(func() { conn, err = dialer.Dial(network, to.String()) })
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn, nil
}

// Echo sends a few bytes to an echo server and returns nil if the same come
// back, before the connection's deadline.
func Echo(conn net.Conn) error {
	sent, got := make([]byte, 16), make([]byte, 16)
	_, _ = rand.Read(sent) // never fails
	if _, err := conn.Write(sent); err != nil {
		return fmt.Errorf("send to %s: %w", conn.RemoteAddr(), err)
	}
	if _, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("await echo from %s: %w", conn.RemoteAddr(), err)
	}
	if !bytes.Equal(sent, got) {
		return fmt.Errorf("await echo from %s: other bytes came than were sent", conn.RemoteAddr())
	}
	return nil
}
