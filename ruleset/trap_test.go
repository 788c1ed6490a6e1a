package ruleset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

const (
	fin, syn, rst, psh = netnstest.FlagFIN, netnstest.FlagSYN, netnstest.FlagRST, netnstest.FlagPSH
	ack, urg, ece, cwr = netnstest.FlagACK, netnstest.FlagURG, netnstest.FlagECE, netnstest.FlagCWR
)

func TestOnePacketBans(t *testing.T) {
	for _, tt := range []struct {
		name   string
		packet func(l *lab, f family) netnstest.Packet
	}{
		{"SYN", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), trapTCP, syn) }},
		{"SYN with ECN", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), trapTCP, syn|ece|cwr) }},
		{"FIN", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), trapTCP, fin) }},
		{"SYN+FIN", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), trapTCP, syn|fin) }},
		{"NULL", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), trapTCP, 0) }},
		{"Xmas", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), trapTCP, fin|psh|urg) }},
		{"UDP", func(l *lab, f family) netnstest.Packet { return l.udp(l.source(f), trapUDP) }},
		{"first of a range", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), 5900, syn) }},
		{"last of a range", func(l *lab, f family) netnstest.Packet { return l.tcp(l.source(f), 5910, syn) }},
		{"first of a range of UDP", func(l *lab, f family) netnstest.Packet { return l.udp(l.source(f), 1000) }},
		{"last of a range of UDP", func(l *lab, f family) netnstest.Packet { return l.udp(l.source(f), 1010) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			var want []string
			l.families(func(l *lab, f family) {
				bystander, p := l.source(f), tt.packet(l, f)
				offender := p.Src.Addr()
				l.served(bystander, offender)
				before := l.counters()

				l.want(p, netnstest.NoAnswer)
				l.want(l.syn(offender, openTCP), netnstest.NoAnswer) // the very next packet

				after := l.counters()
				for counter, n := range map[string]uint64{CounterTrapped: 1, CounterBanned: 1, CounterDropped: 1, CounterFull: 0} {
					if got := after[counter] - before[counter]; got != n {
						t.Errorf("counter %s went up by %d, want %d", counter, got, n)
					}
				}
				l.cut(offender)
				l.served(bystander)
				want = append(want, banOf(offender))
				l.wantBans(want...)
				b := l.bans()[banOf(offender)]
				const d = 10 * time.Minute
				if b.Set != f.ban() || b.Step != 1 || b.Cause != CauseTrap || b.Timeout != d || b.Remaining > d || b.Remaining < d-patience {
					t.Errorf("the ban is %+v, want one of %v by step 1", b, d)
				}
			})
		})
	}
}

func TestWhatIsNoTrapPacketDoesNotBan(t *testing.T) {
	spec := trapSpec()
	spec.Scan.Ports = 0
	spec.TrapTCP = append(spec.TrapTCP, Ports{7777, 7777})
	spec.TrapUDP = append(spec.TrapUDP, Ports{8888, 8888})
	l := newTrap(t, spec)
	l.families(func(l *lab, f family) {
		src := l.source(f)
		for _, tt := range []struct {
			name string
			p    netnstest.Packet
			want netnstest.AnswerKind
		}{
			{"SYN+ACK", l.tcp(src, trapTCP, syn|ack), netnstest.AnswerRST},
			{"ACK", l.tcp(src, trapTCP, ack), netnstest.AnswerRST},
			{"FIN+ACK", l.tcp(src, trapTCP, fin|ack), netnstest.AnswerRST},
			{"PSH+ACK", l.tcp(src, trapTCP, psh|ack), netnstest.AnswerRST},
			{"RST", l.tcp(src, trapTCP, rst), netnstest.NoAnswer},
			{"RST+ACK", l.tcp(src, trapTCP, rst|ack), netnstest.NoAnswer},
			{"SYN+RST", l.tcp(src, trapTCP, syn|rst), netnstest.NoAnswer},
			{"SYN to a closed port", l.syn(src, closed), netnstest.AnswerRST},
			{"before a range", l.syn(src, 5899), netnstest.AnswerRST},
			{"after a range", l.syn(src, 5911), netnstest.AnswerRST},
			{"UDP to a trap of TCP", l.udp(src, 7777), netnstest.AnswerPortUnreachable},
			{"TCP to a trap of UDP", l.syn(src, 8888), netnstest.AnswerRST},
			{"UDP before a range", l.udp(src, 999), netnstest.AnswerPortUnreachable},
			{"UDP after a range", l.udp(src, 1011), netnstest.AnswerPortUnreachable},
			{"echo request", netnstest.Ping(src, l.to(src, 0).Addr(), 1), netnstest.AnswerEcho},
		} {
			if got := l.outside.Probe(tt.p); got.Kind != tt.want {
				l.t.Errorf("%s: got answer %v, want %v", tt.name, got, netnstest.Answer{Kind: tt.want})
			}
			l.wantBans()
		}
		l.served(src)
	})
	for name, n := range l.counters() {
		if n != 0 {
			t.Errorf("counter %s is %d, want 0", name, n)
		}
	}
}

func TestWithoutTrapsAndScansNobodyIsBanned(t *testing.T) {
	spec := trapSpec()
	spec.TrapTCP, spec.TrapUDP, spec.Scan.Ports = nil, nil, 0
	l := newTrap(t, spec)
	l.families(func(l *lab, f family) {
		src := l.source(f)
		l.want(l.syn(src, trapTCP), netnstest.AnswerRST)
		l.want(l.udp(src, trapUDP), netnstest.AnswerPortUnreachable)
		for port := uint16(200); port < 210; port++ {
			l.want(l.syn(src, port), netnstest.AnswerRST)
		}
		l.served(src)
	})
	l.wantBans()
}

// TestSYNsOfBannedEndBeforeConntrack counts what comes as far as the place between the two chains that drop.
func TestSYNsOfBannedEndBeforeConntrack(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.nft(fmt.Sprintf(`
table inet between {
	counter seen { }
	chain between {
		type filter hook prerouting priority -250; policy accept;
		ip saddr %s counter name seen
		ip6 saddr %s counter name seen
	}
}`, sources4, sources6))
	l.families(func(l *lab, f family) {
		src, bystander := l.source(f), l.source(f)
		l.offend(src)
		for _, tt := range []struct {
			what string
			p    netnstest.Packet
			want int
		}{
			{"a SYN of a banned source", l.syn(src, openTCP), 0},
			{"its next SYN to a trap", l.syn(src, trapTCP), 0},
			{"an ACK of a banned source", l.tcp(src, openTCP, ack), 1}, // it could be a reply
			{"a datagram of a banned source", l.udp(src, openUDP), 1},
			{"a SYN of a bystander", l.tcp(bystander, closed, syn), 1},
		} {
			l.nft("reset counter inet between seen")
			l.outside.Send(tt.p)
			if seen := l.nft("", "list", "counter", "inet", "between", "seen"); !strings.Contains(seen, fmt.Sprintf("packets %d ", tt.want)) {
				l.t.Errorf("%s: want %d packets:\n%s", tt.what, tt.want, seen)
			}
		}
	})
}

// TestBanExpires bans again who comes again after it.
func TestBanExpires(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.BanTime = []time.Duration{700 * time.Millisecond}
	l := newTrap(t, spec)
	l.families(func(l *lab, f family) {
		src := l.source(f)
		for range 2 {
			l.offend(src)
			l.cut(src)
			await(t, "the ban to expire", func() bool { return len(l.bans()) == 0 })
			l.served(src)
		}
	})
}
