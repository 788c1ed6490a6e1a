package ruleset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

const (
	fin, syn, rst, psh = netnstest.FlagFIN, netnstest.FlagSYN, netnstest.FlagRST, netnstest.FlagPSH
	ack, urg, ece, cwr = netnstest.FlagACK, netnstest.FlagURG, netnstest.FlagECE, netnstest.FlagCWR
)

func TestOnePacketBans(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		packet func(l *fixture, f family) netnstest.Packet
	}{
		{"SYN", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), lab.TrapTCP, syn) }},
		{"SYN with ECN", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), lab.TrapTCP, syn|ece|cwr) }},
		{"FIN", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), lab.TrapTCP, fin) }},
		{"SYN+FIN", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), lab.TrapTCP, syn|fin) }},
		{"NULL", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), lab.TrapTCP, 0) }},
		{"Xmas", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), lab.TrapTCP, fin|psh|urg) }},
		{"UDP", func(l *fixture, f family) netnstest.Packet { return l.UDP(l.source(f), trapUDP) }},
		{"first of a range", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), 5900, syn) }},
		{"last of a range", func(l *fixture, f family) netnstest.Packet { return l.TCP(l.source(f), 5910, syn) }},
		{"first of a range of UDP", func(l *fixture, f family) netnstest.Packet { return l.UDP(l.source(f), 1000) }},
		{"last of a range of UDP", func(l *fixture, f family) netnstest.Packet { return l.UDP(l.source(f), 1010) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			var want []string
			l.families(func(l *fixture, f family) {
				bystander, p := l.source(f), tt.packet(l, f)
				offender := p.Src.Addr()
				l.Served(bystander, offender)
				before := l.counters()

				l.Want(p, netnstest.NoAnswer)
				l.Want(l.SYN(offender, lab.OpenTCP), netnstest.NoAnswer) // the very next packet

				after := l.counters()
				for counter, n := range map[string]uint64{CounterTrapped: 1, CounterBanned: 1, CounterDropped: 1, CounterFull: 0} {
					if got := after[counter] - before[counter]; got != n {
						t.Errorf("counter %s went up by %d, want %d", counter, got, n)
					}
				}
				l.Cut(offender)
				l.Served(bystander)
				want = append(want, banOf(offender))
				l.wantBans(want...)
				b := l.bans()[banOf(offender)]
				const d = 10 * time.Minute
				if b.Set != f.ban() || b.Step != 1 || b.Cause != CauseTrap || b.Timeout != d || b.Remaining > d || b.Remaining < d-lab.Patience {
					t.Errorf("the ban is %+v, want one of %v by step 1", b, d)
				}
			})
		})
	}
}

func TestWhatIsNoTrapPacketDoesNotBan(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Scan.Ports = 0
	spec.TrapTCP = append(spec.TrapTCP, Ports{7777, 7777})
	spec.TrapUDP = append(spec.TrapUDP, Ports{8888, 8888})
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		for _, tt := range []struct {
			name string
			p    netnstest.Packet
			want netnstest.AnswerKind
		}{
			{"SYN+ACK", l.TCP(src, lab.TrapTCP, syn|ack), netnstest.AnswerRST},
			{"ACK", l.TCP(src, lab.TrapTCP, ack), netnstest.AnswerRST},
			{"FIN+ACK", l.TCP(src, lab.TrapTCP, fin|ack), netnstest.AnswerRST},
			{"PSH+ACK", l.TCP(src, lab.TrapTCP, psh|ack), netnstest.AnswerRST},
			{"RST", l.TCP(src, lab.TrapTCP, rst), netnstest.NoAnswer},
			{"RST+ACK", l.TCP(src, lab.TrapTCP, rst|ack), netnstest.NoAnswer},
			{"SYN+RST", l.TCP(src, lab.TrapTCP, syn|rst), netnstest.NoAnswer},
			{"SYN to a closed port", l.SYN(src, lab.Closed), netnstest.AnswerRST},
			{"before a range", l.SYN(src, 5899), netnstest.AnswerRST},
			{"after a range", l.SYN(src, 5911), netnstest.AnswerRST},
			{"UDP to a trap of TCP", l.UDP(src, 7777), netnstest.AnswerPortUnreachable},
			{"TCP to a trap of UDP", l.SYN(src, 8888), netnstest.AnswerRST},
			{"UDP before a range", l.UDP(src, 999), netnstest.AnswerPortUnreachable},
			{"UDP after a range", l.UDP(src, 1011), netnstest.AnswerPortUnreachable},
			{"echo request", netnstest.Ping(src, l.To(src, 0).Addr(), 1), netnstest.AnswerEcho},
		} {
			if got := l.Internet.Probe(tt.p); got.Kind != tt.want {
				l.T.Errorf("%s: got answer %v, want %v", tt.name, got, netnstest.Answer{Kind: tt.want})
			}
			l.wantBans()
		}
		l.Served(src)
	})
	for name, n := range l.counters() {
		if n != 0 {
			t.Errorf("counter %s is %d, want 0", name, n)
		}
	}
}

func TestWithoutTrapsAndScansNobodyIsBanned(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.TrapTCP, spec.TrapUDP, spec.Scan.Ports = nil, nil, 0
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
		l.Want(l.UDP(src, trapUDP), netnstest.AnswerPortUnreachable)
		for port := uint16(200); port < 210; port++ {
			l.Want(l.SYN(src, port), netnstest.AnswerRST)
		}
		l.Served(src)
	})
	l.wantBans()
}

// TestSYNsOfBannedEndBeforeConntrack counts what comes as far as the place
// between the two chains that drop.
func TestSYNsOfBannedEndBeforeConntrack(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.NFT(fmt.Sprintf(`
table inet between {
	counter seen { }
	chain between {
		type filter hook prerouting priority -250; policy accept;
		ip saddr %s counter name seen
		ip6 saddr %s counter name seen
	}
}`, lab.Sources4, lab.Sources6))
	l.families(func(l *fixture, f family) {
		src, bystander := l.source(f), l.source(f)
		l.Offend(src)
		for _, tt := range []struct {
			what string
			p    netnstest.Packet
			want int
		}{
			{"a SYN of a banned source", l.SYN(src, lab.OpenTCP), 0},
			{"its next SYN to a trap", l.SYN(src, lab.TrapTCP), 0},
			{"an ACK of a banned source", l.TCP(src, lab.OpenTCP, ack), 1}, // it could be a reply
			{"a datagram of a banned source", l.UDP(src, lab.OpenUDP), 1},
			{"a SYN of a bystander", l.TCP(bystander, lab.Closed, syn), 1},
		} {
			l.NFT("reset counter inet between seen")
			l.Internet.Send(tt.p)
			if seen := l.NFT("", "list", "counter", "inet", "between", "seen"); !strings.Contains(seen, fmt.Sprintf("packets %d ", tt.want)) {
				l.T.Errorf("%s: want %d packets:\n%s", tt.what, tt.want, seen)
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
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		for range 2 {
			l.Offend(src)
			l.Cut(src)
			lab.Await(t, "the ban to expire", func() bool { return len(l.bans()) == 0 })
			l.Served(src)
		}
	})
}
