package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/portmon/portmon/ruleset"
)

const (
	// An answer is taken to be valid for this long at least, and at most.
	minTTL, maxTTL = time.Minute, time.Hour
	// patience is what /etc/resolv.conf gives three servers, twice each, by
	// default.
	patience = 30 * time.Second
)

// Lookup asks the resolver of the system. It takes half a minute at most.
func Lookup(ctx context.Context, q Question) Answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	network := "ip4"
	if q.IPv6 {
		network = "ip6"
	}
	var last []byte // the last message: the resolver reads until it believes one
	system := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		last = nil
		if udp, ok := conn.(*net.UDPConn); ok {
			return &datagrams{udp, &last}, err
		}
		return &stream{conn, &last, 0}, err
	}}
	addrs, err := system.LookupNetIP(ctx, network, q.Name+".") // the dot: it is searched for in no domain
	var failed *net.DNSError
	switch {
	case errors.As(err, &failed) && failed.IsNotFound, errors.As(err, new(*net.AddrError)): // /etc/hosts has the other family
		return Answer{Err: ErrNoAddress}
	case errors.As(err, &failed):
		failed.Name = q.Name
		return Answer{Err: failed}
	case err != nil:
		return Answer{Err: fmt.Errorf("lookup %s: %w", q.Name, err)}
	}
	a := Answer{TTL: minTTL} // of /etc/hosts
	if last != nil {
		a.TTL = ttl(last)
	}
	for _, addr := range addrs {
		if addr = addr.Unmap(); usable(addr) {
			a.Addrs = append(a.Addrs, addr)
		}
	}
	if len(a.Addrs) == 0 {
		return Answer{Err: fmt.Errorf("lookup %s: no packet from outside comes from %v, which is the answer", q.Name, addrs[0])}
	}
	return a
}

// nowhere is 0.0.0.0/8, "this network", which resolvers that block names answer.
var nowhere = netip.MustParsePrefix("0.0.0.0/8")

// usable reports whether packets from other hosts, beyond the link, can have that
// source.
func usable(a netip.Addr) bool {
	return ruleset.CheckSource(netip.PrefixFrom(a, a.BitLen())) == nil &&
		!a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !nowhere.Contains(a)
}

// ttl returns for how long the answer in a message is valid: as long as that
// of its records which is valid for the shortest time.
func ttl(message []byte) time.Duration {
	var p dnsmessage.Parser
	if _, err := p.Start(message); err != nil || p.SkipAllQuestions() != nil {
		return minTTL
	}
	shortest := maxTTL
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return max(shortest, minTTL)
		}
		if err != nil || p.SkipAnswer() != nil {
			return minTTL
		}
		shortest = min(shortest, time.Duration(h.TTL)*time.Second)
	}
}

// datagrams keeps the last message that was read from a connection. The
// resolver takes it for UDP by its other methods.
type datagrams struct {
	*net.UDPConn
	last *[]byte
}

func (d *datagrams) Read(b []byte) (int, error) {
	n, err := d.UDPConn.Read(b)
	*d.last = bytes.Clone(b[:n])
	return n, err
}

// stream keeps the only message that is read from a connection, without its
// length, which comes first.
type stream struct {
	net.Conn
	last *[]byte
	read int
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	*s.last = append(*s.last, b[min(n, max(2-s.read, 0)):n]...)
	s.read += n
	return n, err
}
