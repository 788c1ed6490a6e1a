package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/dnslab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

const home = "home.example.org"

// newNamesLab makes a lab with a DNS server on the internet, which the daemon on
// the host asks about home.
func newNamesLab(t *testing.T) (*fixture, *dnslab.Server) {
	t.Helper()
	l := newLab(t)
	l.names = []string{home}
	l.files = map[string]string{"/etc/resolv.conf": dnslab.Resolv(l.Link.A.IPv4), "/etc/hosts": ""}
	return l, dnslab.Serve(t, l.Internet)
}

// allowed returns what the table allows, each with its reason.
func (l *fixture) allowed() (all []string) {
	l.T.Helper()
	for e, err := range l.Open().Allowed() {
		if err != nil {
			l.T.Fatal(err)
		}
		if e.Cause != ruleset.CauseName || e.Timeout != 25*time.Hour {
			l.T.Errorf("%+v", e)
		}
		all = append(all, fmt.Sprint(e.Interval, " ", e.Comment))
	}
	slices.Sort(all)
	return all
}

func (l *fixture) awaitAllowed(want ...string) {
	l.T.Helper()
	lab.Await(l.T, fmt.Sprintf("%q are allowed", want), func() bool { return slices.Equal(l.allowed(), want) })
}

// Hosts of a name are not banned for what bans their neighbours, and a ban that is
// there when they are looked up ends.
func TestNames(t *testing.T) {
	t.Parallel()
	l, dns := newNamesLab(t)
	home4, next4 := l.Source4(), l.Source4()
	home6, next6 := l.Source6(), l.Source6()
	roommate6 := home6.Next()
	l.Offend(home4, next4, home6, next6)
	dns.Set(home, time.Hour, home4, home6)
	l.metrics = metricsAddr
	p := l.start()
	network6, _ := home6.Prefix(64)
	l.awaitAllowed(fmt.Sprint(home4, " ", home), fmt.Sprint(network6, " ", home))
	for range 2 {
		l.Served(home4, home6, roommate6)
		l.Cut(next4, next6)
		for _, src := range []netip.Addr{home4, home6, roommate6} {
			l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST) // it would have been an offence
		}
	}
	p.awaitRows(4, 2)

	names := p.status().Names
	if len(names) != 1 || names[0].Name != home || !slices.Equal(names[0].Addresses, []netip.Addr{home4, home6}) ||
		time.Since(names[0].Since) > lab.LongPatience || names[0].Failures != 0 || names[0].Error != "" {
		t.Errorf("the status has %+v", names)
	}
	p.awaitJournal("level=INFO", `msg="name has changed"`, "name="+home, fmt.Sprintf(`addresses="%v, %v"`, home4, home6))
	if v, _ := l.value(metricsAddr, `portmon_name_failures_total{name="home.example.org"}`); v != "0" {
		t.Errorf("%q failures in the metrics", v)
	}

	// Without the watcher, all of it stays; and another one asks again at once.
	p.stop()
	l.Served(home4, home6)
	dns.Set(home, time.Hour, next4)
	p = l.start()
	l.awaitAllowed(fmt.Sprint(home4, " ", home), fmt.Sprint(next4, " ", home), fmt.Sprint(network6, " ", home))
	l.Served(home4, next4)

	// A name that is removed takes its allowances with it.
	l.names = nil
	l.write()
	if err := p.ask().Reload(nil); err != nil {
		t.Fatal(err)
	}
	l.awaitAllowed()
	lab.Await(t, "the book allows nothing", func() bool {
		for row := range p.book().Rows() {
			if row.Allowed {
				return false
			}
		}
		return true
	})
	l.Offend(home4)
	l.Cut(home4)
	p.stop()
}

// What is allowed by hand as well stays when the name ends, in the kernel and in
// the book, be it the same or a part.
func TestNamesBesideHand(t *testing.T) {
	t.Parallel()
	l, dns := newNamesLab(t)
	home4, home6 := l.Source4(), l.Source6()
	network6, _ := home6.Prefix(64)
	dns.Set(home, time.Hour, home4, home6)
	p := l.start()
	l.awaitAllowed(fmt.Sprint(home4, " ", home), fmt.Sprint(network6, " ", home))
	var records []ruleset.Record
	want := make(map[netip.Prefix]bool)
	for _, a := range []netip.Addr{home4, home6} {
		r := ruleset.Record{Source: netip.PrefixFrom(a, a.BitLen()), Allowed: true, Cause: ruleset.CauseHand}
		r.Timeout, r.Remaining = time.Hour, time.Hour
		records, want[r.Source] = append(records, r), true
	}
	if refused, err := l.Open().Put(records); err != nil || refused != nil {
		t.Fatal(refused, err)
	}
	// byHand reports whether the book has what is allowed by hand, and n others.
	byHand := func(n int) bool {
		got := make(map[netip.Prefix]bool)
		for row := range p.book().Rows() {
			switch {
			case row.Source == network6:
				return false // it is split now
			case row.Allowed && row.Cause == ruleset.CauseHand:
				got[row.Source] = true
			case row.Allowed:
				n--
			}
		}
		return maps.Equal(got, want) && n == 0
	}
	lab.Await(t, "the book to have both", func() bool { return byHand(64) })
	l.names = nil
	l.write()
	if err := p.ask().Reload(nil); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "the name to end", func() bool {
		for e, err := range l.Open().Allowed() {
			if err != nil || e.Cause == ruleset.CauseName {
				return false
			}
		}
		return true
	})
	lab.Await(t, "the book to have what stays", func() bool { return byHand(0) })
	for _, a := range []netip.Addr{home4, home6} {
		l.Want(l.SYN(a, lab.TrapTCP), netnstest.AnswerRST)
	}
	l.Offend(home6.Next())
	p.stop()
}

// With a resolver that is dead, or lies, the last good answer stays, over a
// reboot too, and nothing else is allowed.
func TestNamesWithoutAnswers(t *testing.T) {
	t.Parallel()
	l, dns := newNamesLab(t)
	home4 := l.Source4()
	dns.Set(home, time.Hour, home4)
	p := l.start()
	want := fmt.Sprint(home4, " ", home)
	l.awaitAllowed(want)
	p.awaitRows(1, 0) // it is in the book
	p.stop()
	servfail := func(reply []byte, _ bool) [][]byte {
		reply[3] |= byte(dnsmessage.RCodeServerFailure)
		return [][]byte{reply}
	}
	nxdomain := func(reply []byte, _ bool) [][]byte {
		reply[3], reply[7] = reply[3]|byte(dnsmessage.RCodeNameError), 0
		return [][]byte{reply}
	}
	silence := func([]byte, bool) [][]byte { return nil }
	for _, bad := range []struct {
		name, err string
		behave    func([]byte, bool) [][]byte
		addrs     []netip.Addr
	}{
		{"servfail", "server misbehaving", servfail, nil},
		{"no such name", "there is no such name", nxdomain, nil},
		{"silence", "i/o timeout", silence, nil},
		{"lies", "no packet from outside comes from", nil, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("0.0.0.0")}},
	} {
		dns.Behave(bad.behave)
		if bad.addrs != nil {
			dns.Set(home, time.Hour, bad.addrs...)
		}
		l.FlushRuleset() // as a reboot does
		l.apply()
		p := l.start()
		p.awaitJournal("level=WARN", `msg="name has no good answer"`, bad.err)
		if s := p.status().Names[0]; s.Error == "" || s.Failures == 0 || !slices.Equal(s.Addresses, []netip.Addr{home4}) {
			t.Errorf("%s: the status has %+v", bad.name, s)
		}
		l.Want(l.SYN(home4, lab.TrapTCP), netnstest.AnswerRST)
		l.Served(home4)
		if got := l.allowed(); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q are allowed", bad.name, got)
		}
		p.stop()
	}
}

// However many names wait for a resolver that does not answer, the watcher goes
// on; and one that answers with a network has eight addresses of it allowed.
func TestNamesDoNotStall(t *testing.T) {
	t.Parallel()
	l, dns := newNamesLab(t)
	l.files["/etc/resolv.conf"] += "options timeout:60\n"
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	dns.Behave(func(reply []byte, _ bool) [][]byte {
		<-held
		return [][]byte{reply}
	})
	var many []netip.Addr
	for range 200 {
		many = append(many, l.Source4())
	}
	l.names = nil
	for i := range 64 {
		l.names = append(l.names, fmt.Sprintf("home%d.example.org", i))
		dns.Set(l.names[i], time.Hour, many...)
	}
	asked := func() (n int) {
		for _, name := range l.names {
			a, aaaa := dns.Queries(name)
			n += a + aaaa
		}
		return n
	}
	p := l.start()
	lab.Await(t, "names are asked for", func() bool { return asked() >= maxLookups })
	src := l.Source4()
	start := time.Now()
	l.Offend(src)
	p.awaitOffenders(1)
	if took := time.Since(start); took > 20*time.Second { // a look-up takes 30 s
		t.Errorf("a ban was noted after %v", took)
	}
	if n := asked(); n != maxLookups {
		t.Errorf("%d questions are open, want %d", n, maxLookups)
	}
	l.FlushRuleset() // what is answered without a table is allowed in the next one
	release()
	lab.Await(t, "all names are answered", func() bool {
		for _, n := range p.status().Names {
			if len(n.Addresses) != 8 {
				return false
			}
		}
		return true
	})
	lab.Await(t, "eight addresses are allowed", func() bool { return len(l.allowed()) == 8 })
	l.Served(many[7])
	l.Offend(many[8])
	l.Cut(many[8])
	p.stop()
}

// What is answered before there is a table is allowed once there is one.
func TestNamesBeforeTheTable(t *testing.T) {
	t.Parallel()
	l, dns := newNamesLab(t)
	l.FlushRuleset()
	home4, home6 := l.Source4(), l.Source6()
	dns.Set(home, time.Hour, home4, home6)
	p := l.start()
	lab.Await(t, "the name is answered", func() bool {
		names := p.status().Names
		return len(names) == 1 && len(names[0].Addresses) == 2
	})
	l.apply()
	network6, _ := home6.Prefix(64)
	l.awaitAllowed(fmt.Sprint(home4, " ", home), fmt.Sprint(network6, " ", home))
	p.stop()
}
