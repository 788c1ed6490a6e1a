// Package listeners finds the ports on which programs of this host wait for
// packets from anybody.
package listeners

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// tables are the files that list sockets, for kernels that say no more. state
// is that of a socket which waits.
var tables = []struct{ file, proto, state string }{
	{"tcp", "tcp", "0A"},
	{"tcp6", "tcp", "0A"},
	{"udp", "udp", "07"},
	{"udp6", "udp", "07"},
}

// Read returns the sockets of the calling thread's network namespace, in the
// order in which the kernel lists them. It needs no privilege.
func Read() ([]Socket, error) {
	if all, err := diagnose(); err == nil {
		return all, nil
	}
	// /proc/net would be that of the process, whose other threads may be
	// elsewhere.
	return read("/proc/thread-self/net")
}

func read(dir string) ([]Socket, error) {
	var all []Socket
	for _, t := range tables {
		f, err := os.Open(filepath.Join(dir, t.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		sockets, err := parse(f, t.proto, t.state)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		all = append(all, sockets...)
	}
	return all, nil
}

// parse reads a table: a heading, then a line for each socket,
// "sl local_address rem_address st ...".
func parse(r io.Reader, proto, state string) ([]Socket, error) {
	var sockets []Socket
	lines := bufio.NewScanner(r)
	lines.Scan()
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 {
			return nil, fmt.Errorf("not a socket: %q", lines.Text())
		}
		if fields[3] != state {
			if proto == "tcp" {
				// Listening sockets come first (tcp_get_idx in
				// net/ipv4/tcp_ipv4.c), and there may be many of the others.
				break
			}
			continue
		}
		addr, err := parseAddr(fields[1])
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, Socket{Proto: proto, Addr: addr})
	}
	return sockets, lines.Err()
}

// parseAddr reads "0100007F:0016": the address as words of 32 bits, each in
// host byte order, and the port as a number.
func parseAddr(s string) (netip.AddrPort, error) {
	fault := fmt.Errorf("not an address: %q", s)
	host, port, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fault
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fault
	}
	for word := range len(b) / 4 {
		w := b[4*word:][:4]
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}
