package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lane is a target, and what is sent to it.
type lane struct {
	*target
	contender
	flows []*injector // in the order of the flows
	bans  bool        // whether the table has bans
}

// bans is how many are in the set of each family: nearly as many as it takes.
const bans = 60_000

// newLane makes the hosts.
func newLane(t *scope, c contender, flows []flow) (*lane, error) {
	g, err := newTarget(t, c)
	if err != nil {
		return nil, err
	}
	client := g.link.A.Host
	client.AddAddr("lo", innocents.String()) // all of the network is the client's: it is on lo
	client.Sysctl("net.ipv4.tcp_timestamps", "0")
	if err := g.fill(banSet(false), append(sourcesOf(banned, few), randomAddrs(bans-few)...)); err != nil {
		return nil, fmt.Errorf("ban in %s: %w", c.name, err)
	}
	if err := g.fill(banSet(true), randomAddrs6(bans)); err != nil {
		return nil, fmt.Errorf("ban in %s: %w", c.name, err)
	}
	l := &lane{target: g, contender: c}
	if l.bans, err = g.has(banSet(false)); err != nil {
		return nil, err
	}
	if err := l.serve(t); err != nil {
		return nil, err
	}
	for _, f := range flows {
		frames, err := f.frames(l, sourcesOf(f.from, f.sources))
		if err != nil {
			return nil, fmt.Errorf("prepare %s for %s: %w", f.name, c.name, err)
		}
		in, err := newInjector(t, g.link.A, frames)
		if err != nil {
			return nil, err
		}
		l.flows = append(l.flows, in)
	}
	return l, nil
}

// sourcesOf returns the first n addresses of a prefix, of IPv6 one of each /64.
func sourcesOf(p netip.Prefix, n int) []netip.Addr {
	addrs := make([]netip.Addr, n)
	for i := range addrs {
		a := p.Addr().AsSlice()
		at := 3
		if p.Addr().Is6() {
			at, a[15] = 7, 1
		}
		a[at-1] += byte((i + 1) >> 8)
		a[at] += byte(i + 1)
		addrs[i], _ = netip.AddrFromSlice(a)
	}
	return addrs
}

// serve opens the sockets that packets go to, with as little room as there is,
// and fills the backlog of the one that listens.
func (l *lane) serve(t *scope) error {
	if err := l.listen(t, unix.SOCK_DGRAM, portUDP); err != nil {
		return err
	}
	if err := l.listen(t, unix.SOCK_STREAM, portFull); err != nil {
		return err
	}
	_, err := l.link.A.Host.Dial("tcp", netip.Addr{}, netip.AddrPortFrom(l.link.B.IPv4, portFull), 5*time.Second)
	return err
}

// listen opens a socket of both families.
func (l *lane) listen(t *scope, typ, port int) (err error) {
	l.host().Do(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET6, typ|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			return
		}
		if err = unix.Bind(fd, &unix.SockaddrInet6{Port: port}); err == nil && typ == unix.SOCK_STREAM {
			err = unix.Listen(fd, 0)
		}
	})
	return os.NewSyscallError("listen", err)
}

// verify sends some packets of each flow and checks that they get as far as
// they should.
func (l *lane) verify(flows []flow) error {
	for i, f := range flows {
		if _, err := l.flows[i].send(1); err != nil { // fills the UDP socket: what waits in it is not counted
			return err
		}
		before, err := l.received(f)
		if err != nil {
			return err
		}
		const repeat = 10
		if _, err := l.flows[i].send(repeat); err != nil {
			return err
		}
		after, err := l.received(f)
		if err != nil {
			return err
		}
		want := repeat * f.sources
		if l.bans && f.from == banned {
			want = 0
		}
		if after-before != want {
			return fmt.Errorf("%s: %d of %d packets of %q got to a socket, %d should have", l.name, after-before, repeat*f.sources, f.name, want)
		}
	}
	return nil
}

// received returns how many packets have got to the server's sockets of the
// flow's kind.
func (l *lane) received(f flow) (n int, err error) {
	l.host().Do(func() {
		var v4, v6 []byte
		if v4, err = os.ReadFile("/proc/thread-self/net/snmp"); err == nil {
			v6, err = os.ReadFile("/proc/thread-self/net/snmp6")
		}
		for name, value := range parseSNMP(v4, v6) {
			if slices.Contains(f.counter, name) {
				n += value
			}
		}
	})
	return n, err
}

// parseSNMP reads the two formats: pairs of lines, "Udp: NAME NAME" and
// "Udp: 1 2", and lines "NAME 1".
func parseSNMP(v4, v6 []byte) map[string]int {
	values := map[string]int{}
	var names []string
	for line := range bytes.Lines(v4) {
		fields := strings.Fields(string(line))
		if len(names) == 0 {
			names = fields
			continue
		}
		for i, name := range names[1:] {
			values[strings.TrimSuffix(names[0], ":")+" "+name], _ = strconv.Atoi(fields[i+1])
		}
		names = nil
	}
	for line := range bytes.Lines(v6) {
		if fields := strings.Fields(string(line)); len(fields) == 2 {
			values[fields[0]], _ = strconv.Atoi(fields[1])
		}
	}
	return values
}
