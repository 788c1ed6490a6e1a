package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// scanSpec is trapSpec without trap ports: only scans are an offence.
func scanSpec(ports int) Spec {
	s := trapSpec()
	s.TrapTCP, s.TrapUDP = nil, nil
	s.Scan.Ports = ports
	return s
}

// separately runs f for each family at the same time, with a lab for each: for
// tests that wait.
func separately(t *testing.T, spec Spec, f func(l *fixture, f family)) {
	t.Helper()
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(newTrap(t, spec), families[i])
		})
	}
}

// both returns a new source of each family.
func (l *fixture) both() []netip.Addr {
	return []netip.Addr{l.source(families[0]), l.source(families[1])}
}

// network returns the address that stands for a source in the sets, by the
// default Spec.
func network(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return netip.PrefixFrom(a, 64).Masked().Addr()
}

// probe asks for closed ports, each of which must answer.
func (l *fixture) probe(src netip.Addr, ports ...uint16) {
	l.T.Helper()
	for _, port := range ports {
		l.Want(l.SYN(src, port), netnstest.AnswerRST)
	}
}

// element asks the kernel for an element of a set.
func (l *fixture) element(set string, key nftset.Key) (nftset.Element, bool) {
	l.T.Helper()
	s := l.open().Set(set)
	if s == nil {
		l.T.Fatalf("there is no set %s", set)
	}
	el, err := l.conn.Get(s, key)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.T.Fatal(err)
	}
	return el, err == nil
}

// size returns how many elements a set has.
func (l *fixture) size(set string) int {
	l.T.Helper()
	n := 0
	for _, err := range l.conn.Elements(l.open().Set(set)) {
		if err != nil {
			l.T.Fatal(err)
		}
		n++
	}
	return n
}

// lookup returns what the table has to say about an address.
func (l *fixture) lookup(a netip.Addr) Standing {
	l.T.Helper()
	st, err := l.open().Lookup(a)
	if err != nil {
		l.T.Fatal(err)
	}
	return st
}

// probed returns the closed ports that count against an address.
func (l *fixture) probed(a netip.Addr) []uint16 {
	l.T.Helper()
	h := l.open()
	st, err := h.Lookup(a)
	if err != nil {
		l.T.Fatal(err)
	}
	ports, err := h.Probed(st.Source)
	if err != nil {
		l.T.Fatal(err)
	}
	if st.Suspect != (len(ports) > 0) {
		l.T.Errorf("is %v a suspect? %v, with the ports %v", a, st.Suspect, ports)
	}
	return ports
}

// wantStanding fails the test unless a source is banned by a step, for a cause;
// step 0 is not at all.
func (l *fixture) wantStanding(a netip.Addr, step int, cause Cause) {
	l.T.Helper()
	st := l.lookup(a)
	switch {
	case step == 0 && (len(st.Bans) > 0 || st.Step > 0):
		l.T.Errorf("%v stands at %+v, want no ban and no step", a, st)
	case step > 0 && (len(st.Bans) != 1 || st.Bans[0].Step != step || st.Bans[0].Cause != cause):
		l.T.Errorf("%v stands at %+v, want a ban by step %d for a %v", a, st, step, cause)
	}
}

// wantCounts fails the test unless the counters went up by so much; those that
// are not named by nothing.
func (l *fixture) wantCounts(before map[string]uint64, want map[string]uint64) {
	l.T.Helper()
	after := l.counters()
	for _, name := range Counters() {
		if got := after[name] - before[name]; got != want[name] {
			l.T.Errorf("counter %s went up by %d, want %d", name, got, want[name])
		}
	}
}

// armed waits until the traps of a new table are.
func (l *fixture) armed() {
	l.T.Helper()
	lab.Await(l.T, "the traps to be armed", func() bool { return l.size(setStarting) == 0 })
}

// hammer sends datagrams to an open port for as long as a source is in a set,
// fails the test if one of them is answered, and returns how many were sent in
// that time: none if the ban has ended already, as a short one may on a busy
// machine.
func (l *fixture) hammer(src netip.Addr, set string) (sent int) {
	l.T.Helper()
	key := nftset.AddrKey(network(src))
	lab.Await(l.T, fmt.Sprintf("the end of the ban of %v", src), func() bool {
		a := l.Internet.Probe(l.UDP(src, lab.OpenUDP))
		if _, banned := l.element(set, key); !banned {
			return true
		}
		sent++
		if a.Kind != netnstest.NoAnswer {
			l.T.Errorf("%v is banned and got answer %v", src, a)
		}
		return a.Kind != netnstest.NoAnswer
	})
	return sent
}
