package ruleset

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// nameServer is an address of the outside that the host asks for names, and
// that somebody gets banned by packets in its name.
var nameServer = [...]netip.Addr{addr("198.51.100.53"), addr("2001:db8:53::53")}

func (l *fixture) newNameServer() {
	l.Internet.AddAddr("lo", "198.51.100.53/32")
	l.Internet.AddAddr("lo", "2001:db8:53::53/128")
	l.Internet.Listen("udp", "[::]:53")
	l.Internet.Listen("tcp", "[::]:53")
}

// ask fails the test unless a host gets answers of a server.
func (l *fixture) ask(from *netnstest.Host, server netip.Addr) {
	l.T.Helper()
	from = from.With(l.T)
	for range 3 {
		if err := from.Exchange("udp", netip.Addr{}, at(server, 53), lab.Patience); err != nil {
			l.T.Errorf("%s asks %v by UDP: %v", from.Name(), server, err)
		}
		if err := from.Exchange("tcp", netip.Addr{}, at(server, 53), lab.Patience); err != nil {
			l.T.Errorf("%s asks %v by TCP: %v", from.Name(), server, err)
		}
	}
}

// connect opens a connection from an address of the outside to the host.
func (l *fixture) connect(src netip.Addr, port uint16) net.Conn {
	l.T.Helper()
	conn, err := l.Internet.Dial("tcp", src, l.To(src, port), lab.Patience)
	if err != nil {
		l.T.Fatal(err)
	}
	if err := errors.Join(conn.SetDeadline(time.Now().Add(lab.Patience)), netnstest.Echo(conn)); err != nil {
		l.T.Fatal(err)
	}
	return conn
}

// silent fails the test unless what a connection sends is dropped.
func (l *fixture) silent(conn net.Conn) {
	l.T.Helper()
	before := l.counters()[CounterDropped]
	if _, err := conn.Write([]byte("anybody there?")); err != nil {
		l.T.Fatal(err)
	}
	lab.Await(l.T, "the packet to be dropped", func() bool { return l.counters()[CounterDropped] > before })
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // an answer takes some µs
	if n, err := conn.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		l.T.Errorf("a banned client's connection from before: read %d bytes, %v", n, err)
	}
}

// notrack are rules that keep a port from conntrack, as busy name servers do.
const notrack = `
table inet untracked {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		meta l4proto { tcp, udp } th dport { 53, 80 } notrack
		meta l4proto { tcp, udp } th sport { 53, 80 } notrack
	}
	chain output {
		type filter hook output priority raw; policy accept;
		meta l4proto { tcp, udp } th dport { 53, 80 } notrack
		meta l4proto { tcp, udp } th sport { 53, 80 } notrack
	}
}`

// TestRepliesOfABannedServer bans a name server that the host uses, and that
// has opened a connection to the host.
func TestRepliesOfABannedServer(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]string{"tracked": "", "untracked": notrack} {
		t.Run(name, func(t *testing.T) {
			l := newTrap(t, trapSpec())
			l.newNameServer()
			behind := l.newBehind()
			if rules != "" {
				l.NFT(rules)
			}
			l.families(func(l *fixture, f family) {
				server, bystander := nameServer[index(f)], l.source(f)
				l.ask(l.Host, server)
				in := l.connect(server, lab.OpenTCP)
				out, err := l.Host.Dial("tcp", netip.Addr{}, at(server, 53), lab.Patience)
				if err == nil {
					err = errors.Join(out.SetDeadline(time.Now().Add(lab.Patience)), netnstest.Echo(out))
				}
				if err != nil {
					l.T.Fatal(err)
				}

				l.Offend(server)
				l.wantStanding(server, 1, CauseTrap)
				if err := netnstest.Echo(out); err != nil {
					l.T.Errorf("a connection of the host from before: %v", err)
				}
				l.ask(l.Host, server)
				if rules == "" { // whose answer a forwarded one is, only conntrack knows
					l.ask(behind, server)
				}
				l.silent(in)
				l.Cut(server)
				// From its port of names, as from any other.
				p := l.UDP(server, lab.OpenUDP)
				p.Src = at(server, 53)
				l.Want(p, netnstest.NoAnswer)
				l.Served(bystander)
				l.ask(l.Host, server)
			})
		})
	}
}

// TestUntrackedRepliesNeedAConnectedSocket sends what is not tracked, from a
// banned source, to sockets on ports that the kernel chooses from.
func TestUntrackedRepliesNeedAConnectedSocket(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.NFT(`table inet untracked {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		notrack
	}
}`)
	l.families(func(l *fixture, f family) {
		server, bystander := l.source(f), l.source(f)
		l.Offend(server)
		local := l.To(server, 40000)
		open := func(network string, to netip.AddrPort) {
			l.T.Helper()
			var conn net.Conn
			var err error
			dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(local)}
			l.Host.Do(func() { conn, err = dialer.Dial(network, to.String()) })
			if err != nil {
				l.T.Fatal(err)
			}
			defer conn.Close()
			answer := netnstest.Packet{Proto: netnstest.UDP, Src: to, Dst: local, Payload: []byte("answer")}
			stranger := answer
			stranger.Src = at(server, to.Port()+1)
			before := l.counters()
			l.Internet.Send(answer)
			l.wantCounts(before, nil)
			_ = conn.SetReadDeadline(time.Now().Add(lab.Patience))
			buf := make([]byte, 10)
			if n, err := conn.Read(buf); string(buf[:n]) != "answer" {
				l.T.Errorf("the connected socket got %q, %v", buf[:n], err)
			}
			// Of a port that nobody asked, and to one where nobody is: dropped.
			l.Internet.Send(stranger)
			answer.Dst = at(local.Addr(), 40001)
			l.Internet.Send(answer)
			l.wantCounts(before, map[string]uint64{CounterDropped: 2})
		}
		open("udp", at(server, 53))
		// A server on such a port is not connected to anybody.
		service := l.Host.Listen("udp", "[::]:40000")
		l.Want(l.UDP(server, 40000), netnstest.NoAnswer)
		l.Want(l.UDP(bystander, 40000), netnstest.AnswerUDP)
		service.Close()
		tcp := l.Host.Listen("tcp", "[::]:40000")
		l.Want(l.TCP(server, 40000, netnstest.FlagACK), netnstest.NoAnswer)
		l.Want(l.SYN(server, 40000), netnstest.NoAnswer)
		l.Want(l.SYN(bystander, 40000), netnstest.AnswerSYNACK)
		tcp.Close()
		l.Cut(server)
		l.Served(bystander)
	})
}

// TestLateRepliesAreNotAnOffence has the host connect from ports that are traps
// to others, and the servers answer late.
func TestLateRepliesAreNotAnOffence(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Scan.Ports = 1
	l := newTrap(t, spec)
	l.newNameServer()
	for _, server := range nameServer {
		local := l.To(server, trapUDP)
		var conn net.Conn
		var err error
		dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(local)}
		l.Host.Do(func() { conn, err = dialer.Dial("udp", at(server, 53).String()) })
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(conn.SetDeadline(time.Now().Add(lab.Patience)), netnstest.Echo(conn), conn.Close()); err != nil {
			t.Fatal(err)
		}
		late := netnstest.Packet{Proto: netnstest.UDP, Src: at(server, 53), Dst: local, Payload: []byte("late")}
		l.Want(late, netnstest.AnswerPortUnreachable)
		l.wantStanding(server, 0, CauseUnknown)
		l.Visit(server)
		stranger := l.source(ofAddr(server))
		late.Src = at(stranger, 53)
		l.Want(late, netnstest.NoAnswer)
		l.wantStanding(stranger, 1, CauseTrap)

		// And TCP: a connection that the server resets, or that has timed out.
		if err := l.Host.Exchange("tcp", netip.Addr{}, at(server, 54), lab.Patience); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port of the server: %v", err)
		}
		l.wantStanding(server, 0, CauseUnknown)
	}
}
