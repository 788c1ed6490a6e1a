package netnstest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// DialTCP connects to an echo server from an address of the host, any if from
// is the zero Addr, and returns nil if what it sends comes back. Where no
// answer is expected, Probe tells without waiting for the timeout, and for
// certain.
func (h *Host) DialTCP(from netip.Addr, to netip.AddrPort, timeout time.Duration) error {
	h.t.Helper()
	return h.exchange("tcp", from, to, timeout)
}

// ExchangeUDP sends a datagram to an echo server from an address of the host,
// any if from is the zero Addr, and returns nil if it comes back. For a closed
// port the error is ECONNREFUSED.
func (h *Host) ExchangeUDP(from netip.Addr, to netip.AddrPort, timeout time.Duration) error {
	h.t.Helper()
	return h.exchange("udp", from, to, timeout)
}

func (h *Host) exchange(network string, from netip.Addr, to netip.AddrPort, timeout time.Duration) error {
	h.t.Helper()
	deadline := time.Now().Add(timeout)
	conn, err := h.Dial(network, from, to, timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("exchange with %s: %w", to, err)
	}
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
		return fmt.Errorf("await echo from %s: %w", conn.RemoteAddr(), errors.New("other bytes came than were sent"))
	}
	return nil
}
