package ruleset

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// change is one of the configuration.
type change struct {
	name   string // the field of Spec that it is about, and what becomes of it
	change func(*Spec)
	check  func(l *fixture, f family) // that it is in force
}

// configChanges are at least one of each field of a Spec but for those that
// have tests of their own.
var configChanges = []change{
	{"nothing", func(*Spec) {}, (*fixture).offendAndCut},
	{"TrapTCP and TrapUDP", func(s *Spec) { s.TrapTCP, s.TrapUDP = []Ports{{4444, 4444}}, nil }, func(l *fixture, f family) {
		src := l.source(f)
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
		l.Want(l.UDP(src, trapUDP), netnstest.AnswerPortUnreachable)
		l.Want(l.SYN(src, 4444), netnstest.NoAnswer)
		l.Cut(src)
	}},
	{"TrapTCP: more than a bitmap", func(s *Spec) { s.TrapTCP = []Ports{{1, 79}, {10000, 20000}} }, func(l *fixture, f family) {
		src := l.source(f)
		l.Want(l.SYN(src, lab.Closed), netnstest.AnswerRST)
		l.Want(l.SYN(src, 9999), netnstest.AnswerRST)
		l.Want(l.SYN(src, 20000), netnstest.NoAnswer)
		l.Cut(src)
	}},
	{"Whitelist", func(s *Spec) { s.Whitelist = []netip.Prefix{prefix("198.51.100.9/32"), prefix("2001:db8:9::/48")} }, func(l *fixture, f family) {
		src := [...]netip.Addr{addr("198.51.100.9"), addr("2001:db8:9::9")}[index(f)]
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
		l.offendAndCut(f)
	}},
	{"BanTime: longer", func(s *Spec) { s.BanTime = []time.Duration{24 * time.Hour, 7 * 24 * time.Hour, 60 * 24 * time.Hour} }, func(l *fixture, f family) {
		l.bannedFor(f, 0, 24*time.Hour)
		l.bannedFor(f, 1, 7*24*time.Hour)
		l.bannedFor(f, 3, 60*24*time.Hour)
	}},
	{"BanTime: shorter", func(s *Spec) { s.BanTime = []time.Duration{time.Minute, time.Hour, 2 * time.Hour} }, func(l *fixture, f family) {
		l.bannedFor(f, 0, time.Minute)
		l.bannedFor(f, 2, 2*time.Hour)
	}},
	{"BanTime: more steps", func(s *Spec) { s.BanTime = append(slices.Clone(s.BanTime), 31*24*time.Hour, 32*24*time.Hour) }, func(l *fixture, f family) {
		l.bannedFor(f, 3, 31*24*time.Hour)
		l.bannedFor(f, 4, 32*24*time.Hour)
		l.bannedFor(f, 5, 32*24*time.Hour)
	}},
	{"Forget", func(s *Spec) { s.Forget = time.Hour }, func(l *fixture, f family) {
		src := l.source(f)
		l.Offend(src)
		l.Cut(src)
		st, err := l.open().Lookup(src)
		if want := time.Hour + 10*time.Minute; err != nil || st.Step != 1 || st.StepRemaining > want || st.StepRemaining < want-lab.Patience {
			l.T.Errorf("step %d is remembered for %v, want step 1 for %v (%v)", st.Step, st.StepRemaining, want, err)
		}
	}},
	{"Size: smaller", func(s *Spec) { s.Size = fullSize }, func(l *fixture, f family) {
		l.offendAndCut(f)
		l.fill(f.ban(), f, fullSize, l.size(f.ban()))
		before, src := l.counters(), l.source(f)
		l.Offend(src)
		l.Served(src)
		l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterFull: 1})
	}},
	{"Size: larger", func(s *Spec) { s.Size = 1 << 20 }, (*fixture).offendAndCut},
	{"MaxRetry and FindTime", func(s *Spec) { s.MaxRetry, s.FindTime = 2, time.Hour }, func(l *fixture, f family) {
		src := l.source(f)
		l.Offend(src)
		l.Served(src)
		l.Offend(src)
		l.Cut(src)
	}},
	{"Grace", func(s *Spec) { s.Grace = time.Minute }, func(l *fixture, f family) {
		l.offendAndCut(f) // the table is not new
		src := l.source(f)
		server := l.Host.Listen("tcp", fmt.Sprintf("[::]:%d", lab.TrapTCP))
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerSYNACK)
		server.Close()
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
		l.Served(src)
		l.NFT("flush set inet portmon " + f.grace(unix.IPPROTO_TCP)) // a minute later
		l.Offend(src)
		l.Cut(src)
	}},
	{"Scan: off", func(s *Spec) { s.Scan.Ports = 0 }, func(l *fixture, f family) {
		l.scannedAt(f, 0)
		l.offendAndCut(f)
	}},
	{"Scan: strict", func(s *Spec) { s.Scan.Ports = 1; s.Scan.Ignore = []Ports{{lab.Closed, lab.Closed}} }, func(l *fixture, f family) {
		l.scannedAt(f, 1)
		l.offendAndCut(f)
	}},
	{"Scan: ports and findtime", func(s *Spec) { s.Scan.Ports, s.Scan.FindTime = 3, time.Hour }, func(l *fixture, f family) {
		l.scannedAt(f, 3)
		l.offendAndCut(f)
	}},
	{"Scan: ignored ports", func(s *Spec) { s.Scan.Ignore = []Ports{{200, 299}} }, func(l *fixture, f family) {
		l.scannedAt(f, 0)
		l.offendAndCut(f)
	}},
	{"Single6", func(s *Spec) { s.Single6 = []netip.Prefix{prefix("2001:db8:6::/48")} }, func(l *fixture, f family) {
		l.offendAndCut(f)
		if f.is6() {
			l.Offend(addr("2001:db8:6:6::1"))
			l.Cut(addr("2001:db8:6:6::1"))
			l.Served(addr("2001:db8:6:6::2"))
		}
	}},
	{"Own6", func(s *Spec) { s.Own6 = []netip.Prefix{prefix("2001:db8:5:5::/64")} }, func(l *fixture, f family) {
		l.offendAndCut(f)
		if f.is6() {
			l.Offend(addr("2001:db8:5:5::1"))
			l.Cut(addr("2001:db8:5:5::1"))
			l.Served(addr("2001:db8:5:5::2"))
		}
	}},
	{"Subnet4 and Subnet6", func(s *Spec) { s.Subnet4, s.Subnet6 = 2, 2 }, func(l *fixture, f family) {
		crowd := [][]string{
			{"198.51.99.1", "198.51.99.2", "198.51.99.3", "198.51.98.1"},
			{"2001:db8:99:1::1", "2001:db8:99:2::1", "2001:db8:99:3::1", "2001:db8:98:1::1"},
		}[index(f)]
		l.Offend(addr(crowd[0]))
		l.Served(addr(crowd[2]))
		l.Offend(addr(crowd[1]))
		l.Cut(addr(crowd[0]), addr(crowd[1]), addr(crowd[2]))
		l.Served(addr(crowd[3]))
	}},
	{"Interfaces", func(s *Spec) { s.Interfaces = []string{"wg0", "lo"} }, (*fixture).offendAndCut},
	{"Knock", func(s *Spec) { s.Knock.TCP = []uint16{knock1, knock2, knock3} }, func(l *fixture, f family) {
		src := l.source(f)
		l.Offend(src)
		l.knock(src, knock1, knock2, knock3)
		l.Visit(src)
		l.offendAndCut(f)
	}},
	{"NoReversePath4 and NoReversePath6", func(s *Spec) { s.NoReversePath4, s.NoReversePath6 = true, true }, func(l *fixture, f family) {
		l.offendAndCut(f)
		src := []string{"198.51.97.9", "2001:db8:97::9"}[index(f)]
		l.Host.AddRoute([]string{"198.51.97.0/24", "2001:db8:97::/48"}[index(f)], "lo")
		l.Offend(addr(src))
		if _, banned := l.bans()[banOf(addr(src))]; !banned {
			l.T.Errorf("%s is not banned, as no route leads back", src)
		}
	}},
	{"Fleet", func(s *Spec) { s.Fleet = FleetSize }, func(l *fixture, f family) {
		src := l.source(f)
		l.fleetBans(src)
		l.Cut(src)
		l.offendAndCut(f)
	}},
	{"LocalPorts", func(s *Spec) { s.LocalPorts = Ports{1024, 2048} }, func(l *fixture, f family) {
		if list := l.list(); !strings.Contains(list, "th dport 1024-2048 socket wildcard 0 accept") {
			l.T.Errorf("the ports did not change:\n%s", list)
		}
		l.offendAndCut(f)
	}},
	{"LogGroup and LogThreshold", func(s *Spec) { s.LogGroup, s.LogThreshold = 700, 7 }, func(l *fixture, f family) {
		if list := l.list(); strings.Count(list, `group 700 snaplen 64 queue-threshold 7`) != 10 {
			l.T.Errorf("the log statements did not change:\n%s", list)
		}
		l.offendAndCut(f)
	}},
}

// TestEveryFieldChanges looks for fields that configChanges leave out.
func TestEveryFieldChanges(t *testing.T) {
	// By another name it is another table, and one that observes cuts nobody.
	elsewhere := []string{"Table", "Prefix6", "Observe", "KeepObserved", "Stays"}
	for i := range reflect.TypeFor[Spec]().NumField() {
		field := reflect.TypeFor[Spec]().Field(i).Name
		changed := slices.ContainsFunc(configChanges, func(c change) bool {
			spec := trapSpec()
			c.change(&spec)
			changed := !reflect.DeepEqual(reflect.ValueOf(spec).Field(i).Interface(), reflect.ValueOf(trapSpec()).Field(i).Interface())
			return changed && strings.Contains(c.name, field)
		})
		if !changed && !slices.Contains(elsewhere, field) {
			t.Errorf("no change of %s was tried", field)
		}
	}
}

func (l *fixture) offendAndCut(f family) {
	l.T.Helper()
	src, bystander := l.source(f), l.source(f)
	l.Offend(src)
	l.Cut(src)
	l.Served(bystander)
}

// bannedFor fails the test unless a source that has offended so often is banned
// for d.
func (l *fixture) bannedFor(f family, offences int, d time.Duration) {
	l.T.Helper()
	src := l.source(f)
	if offences > 0 {
		l.put(Record{Source: prefix(cidr(banOf(src))), Step: offences, StepRemaining: time.Hour})
	}
	l.Offend(src)
	l.Cut(src)
	if b := l.bans()[banOf(src)]; b.Timeout != d || b.Remaining > d || b.Remaining < d-lab.Patience {
		l.T.Errorf("after %d offences, a new ban is for %v with %v left, want %v", offences, b.Timeout, b.Remaining, d)
	}
}

// scannedAt fails the test unless the nth of ten closed ports is an offence; 0
// is none.
func (l *fixture) scannedAt(f family, n int) {
	l.T.Helper()
	src := l.source(f)
	for i := range 10 {
		p := l.SYN(src, uint16(200+i))
		if i+1 == n {
			l.Want(p, netnstest.NoAnswer)
			l.Cut(src)
			return
		}
		l.Want(p, netnstest.AnswerRST)
	}
}

// TestReapplyChangesOnlyWhatChanged makes each change and takes it back.
func TestReapplyChangesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	for _, tt := range configChanges {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			l.NFT(foreign)
			l.put(someBans()...)
			banned := slices.Clone(someBanned)
			l.families(func(l *fixture, f family) {
				banned = append(banned, l.source(f), l.source(f))
				l.Offend(banned[len(banned)-2:]...)
			})
			l.Cut(banned...)
			theirs, table := l.theirs(), l.NFT("", "-t", "list", "table", "inet", "portmon")

			changed := trapSpec()
			tt.change(&changed)
			l.keeps(func() { l.apply(changed) })
			if got := l.theirs(); got != theirs {
				t.Errorf("a foreign table changed:\n%s", difference(got, theirs))
			}
			if p := l.prepare(changed); !p.Empty() {
				t.Errorf("there is more to do:\n%s", p)
			}
			l.Cut(banned...)
			l.families(tt.check)

			l.keeps(func() { l.apply(trapSpec()) })
			if d := difference(canonical(l.NFT("", "-t", "list", "table", "inet", "portmon")), canonical(table)); d != "" {
				t.Errorf("taken back, the table is another:\n%s", d)
			}
			if p := l.prepare(trapSpec()); !p.Empty() {
				t.Errorf("taken back, there is more to do:\n%s", p)
			}
			l.Cut(banned...)
			l.families(func(l *fixture, f family) {
				l.bannedFor(f, 0, 10*time.Minute)
				l.bannedFor(f, 2, 30*24*time.Hour)
			})
		})
	}
}
