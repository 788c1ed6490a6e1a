package ruleset

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// observing returns a Spec with a table that drops nothing.
func observing(s Spec) Spec {
	s.Observe = true
	return s
}

// TestEnforcingForgets has what was observed end, in the transaction from which
// on the table drops, unless it is to be kept.
func TestEnforcingForgets(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, observing(spec))
	if !l.open().Observe {
		t.Error("the state does not say that the table observes")
	}
	counting := []string{"probed4", "probed6", "score4", "score6", "crowd6", "cut4", "cut6"}
	for _, keep := range []bool{false, true} {
		offenders := l.Sources(2)
		for _, src := range offenders {
			l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
		}
		l.Internet.Send(packets(l, l.Source4(), 1, 2)...)
		l.Internet.Send(packets(l, l.Source6(), 1, 2)...)
		l.NFT("add element inet portmon cut4 { 198.51.100.2 . 80 }; add element inet portmon cut6 { 2001:db8:2:2::2 . 80 }")
		for _, set := range counting {
			if l.size(set) == 0 {
				t.Errorf("%s holds nothing", set)
			}
		}
		was := len(l.bans())
		before := l.generation()
		enforcing := spec
		enforcing.KeepObserved = keep
		p := l.apply(enforcing)
		if after := l.generation(); after != before+1 {
			t.Errorf("keep %v: %d transactions, want 1", keep, after-before)
		}
		if l.open().Observe || p.Forgets == keep || p.Empty() {
			t.Errorf("keep %v: the table observes, or the plan is wrong: %s", keep, p)
		}
		if p := l.prepare(spec); !p.Empty() {
			t.Errorf("keep %v: there is more to do: %s", keep, p)
		}
		switch keep {
		case true:
			if got := len(l.bans()); got != was {
				t.Errorf("%d bans were kept, of %d", got, was)
			}
			l.Cut(offenders...)
		case false:
			for e, err := range l.open().Entries() {
				t.Errorf("not forgotten: %s in %s (%v)", e.Interval, e.Set, err)
			}
			for _, set := range counting {
				if n := l.size(set); n > 0 {
					t.Errorf("%s remembers %d", set, n)
				}
			}
			l.Served(offenders...)
			for _, src := range offenders { // the first offence of all
				l.Offend(src)
				if ban := l.bans()[banOf(src)]; ban.Step != 1 {
					t.Errorf("the first offence that has consequences bans by step %d", ban.Step)
				}
			}
			l.Cut(offenders...)
		}
		l.keeps(func() { l.apply(observing(spec)) })
		if !slices.Contains(l.prepare(spec).Summary(), "what was observed") {
			t.Errorf("the plan to enforce again: %s", l.prepare(spec))
		}
		l.forgive()
	}
}

// TestEnforcingKeeps has what is from before the table observed stay as it is when
// it enforces, and what was banned by hand where nothing more is known.
func TestEnforcingKeeps(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, observing(spec))
	known := make(map[netip.Prefix]Record)
	for _, r := range append(someBans(), Record{Source: prefix("198.51.100.77/32"), Step: 1, StepRemaining: time.Hour}) {
		known[r.Source] = r
		l.put(r)
	}
	start, before := time.Now(), l.bans()
	offenders := l.Sources(2)
	again := addr("198.51.100.77") // has offended before, and does again
	for _, src := range append(offenders, again) {
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
	}
	enforcing := spec
	enforcing.Stays = func(r Record) Record {
		was, ok := known[r.Source]
		if r.Banned = r.Banned && was.Banned; !ok || r.Step > was.Step {
			r.Step, r.StepRemaining = was.Step, was.StepRemaining
		}
		return r
	}
	generation := l.generation()
	l.apply(enforcing)
	if n := l.generation() - generation; n != 1 {
		t.Errorf("%d transactions, want 1", n)
	}
	l.lastOn(before, start)
	l.Cut(someBanned...)
	l.Served(offenders...)
	if st, err := l.open().Lookup(again); err != nil || st.Step != 1 || len(st.Bans) > 0 {
		t.Errorf("of who had offended before, %+v stays (%v)", st, err)
	}
	if p := l.prepare(spec); !p.Empty() {
		t.Errorf("there is more to do: %s", p)
	}
	l.apply(observing(spec))

	// Where the table changes its shape as well, each ban is where it belongs
	// then, and those that are whitelisted now end.
	other := enforcing
	other.Prefix6, other.BanTime, other.Scan.Ports = 56, spec.BanTime[:1], 0
	other.Whitelist = append(slices.Clone(spec.Whitelist), prefix("198.51.100.3/32"))
	l.apply(other)
	l.Served(addr("198.51.100.3"))
	l.Cut(slices.DeleteFunc(slices.Clone(someBanned), func(a netip.Addr) bool { return a == addr("198.51.100.3") })...)
	if p := l.prepare(other); !p.Empty() {
		t.Errorf("there is more to do: %s", p)
	}
	l.forgive()

	l.apply(observing(spec))
	l.put(someBans()...)
	l.apply(spec)
	l.Cut(addr("198.51.100.3"), addr("203.0.113.1"), addr("203.0.113.129"), addr("2001:db8:f01::1"), addr("2001:db8:3:3::3"))
	l.Served(addr("198.51.100.2"), addr("198.51.100.22"), addr("2001:db8:2:2::2"))
}

// observed is a lab whose table observes, beside one whose table enforces, and one
// without a table. All three get the same packets.
type observed struct {
	observing, enforcing, bare *fixture
	logs                       [2]*nflog.Conn
}

func newObserved(t *testing.T, spec Spec) *observed {
	t.Helper()
	spec.LogGroup, spec.LogThreshold = 700, 1
	o := &observed{newTrap(t, observing(spec)), newTrap(t, spec), newLab(t), [2]*nflog.Conn{}}
	for i, l := range []*fixture{o.observing, o.enforcing} {
		var err error
		if o.logs[i], err = nflog.Dial(&nflog.Config{Group: spec.LogGroup, NetNS: l.Host.FD()}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.logs[i].Close() })
	}
	for _, l := range o.all() {
		l.newContainer()
		l.newNameServer()
		l.Host.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")
		l.Host.Sysctl("net.ipv4.tcp_invalid_ratelimit", "0") // else the time decides about answers
		l.Host.AddRoute("198.51.97.0/24", "lo")
		l.Host.AddRoute("2001:db8:97::/48", "lo")
	}
	return o
}

func (o *observed) all() []*fixture { return []*fixture{o.observing, o.enforcing, o.bare} }

// with returns the labs on behalf of a subtest.
func (o *observed) with(t testing.TB) *observed {
	return &observed{o.observing.with(t), o.enforcing.with(t), o.bare.with(t), o.logs}
}

// send sends a packet to each host, and fails the test unless the host that
// observes answers as one without a table does, and counts and logs as the one
// that enforces. dropped is whether that one drops it.
func (o *observed) send(what string, dropped bool, packet func(l *fixture) netnstest.Packet) {
	t := o.observing.T
	t.Helper()
	var went [2]map[string]uint64
	var answers [3]netnstest.AnswerKind
	var logged [2]string
	for i, l := range o.all() {
		if l == o.bare {
			answers[i] = l.Internet.Probe(packet(l)).Kind
			break
		}
		before := l.counters()
		answers[i] = l.Internet.Probe(packet(l)).Kind
		went[i] = l.counters()
		for name := range went[i] {
			if went[i][name] -= before[name]; went[i][name] > 1 {
				t.Errorf("%s: counter %s counts the packet %d times", what, name, went[i][name])
			}
		}
		logged[i] = o.logged(i, went[i][CounterBanned] > 0)
	}
	if answers[0] != answers[2] {
		t.Errorf("%s: the answer is %v, without a table %v", what, netnstest.Answer{Kind: answers[0]}, netnstest.Answer{Kind: answers[2]})
	}
	if (answers[1] == netnstest.NoAnswer) != dropped {
		t.Errorf("%s: the answer where the table enforces is %v", what, netnstest.Answer{Kind: answers[1]})
	}
	if !maps.Equal(went[0], went[1]) || logged[0] != logged[1] {
		t.Errorf("%s: counted %v and logged %q, where the table enforces %v and %q", what, went[0], logged[0], went[1], logged[1])
	}
}

// logged returns the prefix of a message of the log group.
func (o *observed) logged(i int, waits bool) string {
	o.observing.T.Helper()
	if !waits {
		return ""
	}
	if err := o.logs[i].SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
		o.observing.T.Fatal(err)
	}
	got, _, err := o.logs[i].Receive(nil)
	if err != nil || len(got) != 1 {
		o.observing.T.Fatalf("got the messages %v, %v", got, err)
	}
	return got[0].Prefix
}

// same fails the test unless the two tables hold the same of each source.
func (o *observed) same() {
	t := o.observing.T
	t.Helper()
	held := func(l *fixture) (all []string) {
		h := l.open()
		for i := range h.Sets {
			set := &h.Sets[i]
			for el, err := range l.conn.Elements(set) {
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, fmt.Sprint(set.Name, " ", el.Interval, " ", el.Timeout))
			}
		}
		slices.Sort(all)
		return all
	}
	onlyObserved, onlyEnforced := apart(held(o.observing), held(o.enforcing), strings.Compare)
	if len(onlyObserved)+len(onlyEnforced) > 0 {
		t.Errorf("only where the table observes: %q; only where it enforces: %q", onlyObserved, onlyEnforced)
	}
}

// TestObserveDropsNothing sends everything that is dropped, to a host that
// observes and one that enforces side by side.
func TestObserveDropsNothing(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Scan.Ports, spec.Subnet4, spec.Subnet6 = 2, 3, 3
	o := newObserved(t, spec)
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) { o.with(t).offences(families[i]) })
	}
	o.same()
}

func (o *observed) offences(f family) {
	source := func() (src netip.Addr) {
		for _, l := range o.all() {
			src = l.source(f) // which is the same everywhere
		}
		return src
	}
	syn := func(src netip.Addr, port uint16) func(*fixture) netnstest.Packet {
		return func(l *fixture) netnstest.Packet { return l.SYN(src, port) }
	}
	trapped, scanner, byUDP, byHand, forgiven := source(), source(), source(), source(), source()
	banned := func(what string, src netip.Addr) {
		o.send(what+": SYN to a trap", true, syn(src, lab.TrapTCP))
		o.send(what+": SYN to a closed port", true, syn(src, lab.Closed))
		o.send(what+": FIN", true, func(l *fixture) netnstest.Packet { return l.TCP(src, lab.Closed, fin) })
		o.send(what+": ACK", true, func(l *fixture) netnstest.Packet { return l.TCP(src, lab.OpenTCP, netnstest.FlagACK) })
		o.send(what+": datagram", true, func(l *fixture) netnstest.Packet { return l.UDP(src, lab.OpenUDP) })
		o.send(what+": datagram to a trap", true, func(l *fixture) netnstest.Packet { return l.UDP(src, trapUDP) })
		o.send(what+": ping", true, func(l *fixture) netnstest.Packet { return netnstest.Ping(src, l.To(src, 0).Addr(), 7) })
		o.send(what+": routed SYN", true, func(*fixture) netnstest.Packet { return netnstest.SYN(src, at(container(src), lab.Closed)) })
		o.send(what+": routed datagram", true, func(*fixture) netnstest.Packet {
			return netnstest.Datagram(src, at(container(src), lab.OpenUDP), "hello")
		})
	}
	o.send("a trap", true, syn(trapped, lab.TrapTCP))
	banned("trapped", trapped)
	o.send("a closed port", false, syn(scanner, lab.Closed))
	o.send("the same again", false, syn(scanner, lab.Closed))
	o.send("another closed port", true, syn(scanner, 1))
	banned("scanner", scanner)
	o.send("a UDP trap", true, func(l *fixture) netnstest.Packet { return l.UDP(byUDP, trapUDP) })
	banned("by UDP", byUDP)
	for _, l := range []*fixture{o.observing, o.enforcing} {
		l.ban(time.Hour, netip.PrefixFrom(byHand, f.bits()-8).Masked().String())
	}
	banned("banned by hand", byHand)
	for step := 1; step <= 3; step++ {
		o.send(fmt.Sprint("offence ", step), true, syn(forgiven, lab.TrapTCP))
		for _, l := range []*fixture{o.observing, o.enforcing} {
			l.NFT("flush set inet portmon " + f.ban()) // its time is over
		}
	}
	for i := range 3 {
		src := addr(fmt.Sprintf("198.51.99.%d", i+1))
		if f.is6() {
			src = addr(fmt.Sprintf("2001:db8:99:%d::1", i+1))
		}
		o.send("a subnet", true, syn(src, lab.TrapTCP))
	}
	subnet := [...]string{"198.51.99.200", "2001:db8:99:200::1"}[index(f)]
	banned("a subnet", addr(subnet))
	unroutable := [...]string{"198.51.97.9", "2001:db8:97::9"}[index(f)]
	var answered [3]bool
	for i, l := range o.all() {
		sniffer := l.Host.Sniff("lo")
		if l == o.bare {
			l.Want(l.SYN(addr(unroutable), lab.TrapTCP), netnstest.NoAnswer)
		} else {
			before := l.counters()
			l.Want(l.SYN(addr(unroutable), lab.TrapTCP), netnstest.NoAnswer)
			l.wantCounts(before, map[string]uint64{CounterUnroutable: 1})
		}
		_, err := sniffer.Await(func(p netnstest.Packet) bool { return p.Dst.Addr() == addr(unroutable) }, 0)
		answered[i] = err == nil
	}
	if want := !f.is6(); answered != [3]bool{want, false, want} { // by IPv6 nothing answers, table or not
		o.observing.T.Errorf("packets without a route back: answered are %v", answered)
	}
}

// TestObserveCutsNoConnection bans a client that is connected to a service.
func TestObserveCutsNoConnection(t *testing.T) {
	t.Parallel()
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) { newObserved(t, trapSpec()).connected(families[i]) })
	}
}

func (o *observed) connected(f family) {
	client := nameServer[index(f)]
	var far [3]net.Conn
	for i, l := range o.all() {
		var err error
		if far[i], err = l.Internet.Dial("tcp", client, l.To(client, lab.OpenTCP), lab.Patience); err != nil {
			l.T.Fatal(err)
		}
		if err := netnstest.Echo(far[i]); err != nil {
			l.T.Fatal(err)
		}
		if l.Internet.Fence(); l != o.bare {
			l.ban(time.Hour, cidr(banOf(client)))
		}
	}
	segment := func(l *fixture) netnstest.Packet {
		p := l.TCP(client, lab.OpenTCP, netnstest.FlagACK)
		p.Src = far[slices.Index(o.all(), l)].LocalAddr().(*net.TCPAddr).AddrPort()
		return p
	}
	for i := range 2 {
		o.send(fmt.Sprint("segment of a connection ", i), true, segment)
	}
	for _, l := range []*fixture{o.observing, o.enforcing} {
		if n := l.size(f.cut()); n != 1 {
			l.T.Errorf("%s holds %d elements, want 1", f.cut(), n)
		}
	}
	o.observing.Visit(client)
	if err := netnstest.Echo(far[0]); err != nil {
		o.observing.T.Errorf("the table observes, and cuts a connection: %v", err)
	}
}

// TestObserveRetries is of more packets than one to a trap that make an offence.
func TestObserveRetries(t *testing.T) {
	t.Parallel()
	o := newObserved(t, retrySpec(time.Hour))
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			o, f := o.with(t), families[i]
			for n := range 5 {
				src := [...]netip.Addr{addr("198.51.100.7"), addr("2001:db8:7::7")}[index(f)]
				o.send(fmt.Sprint("packet ", n), true, func(l *fixture) netnstest.Packet { return l.SYN(src, lab.TrapTCP) })
			}
		})
	}
	o.same()
}

// TestEnforceUnderTraffic goes to enforce and back to observe, again and again,
// while those that are observed send, and others: none of their packets is
// lost. At last what was observed is kept.
func TestEnforceUnderTraffic(t *testing.T) {
	t.Parallel()
	const rounds = 30
	spec := trapSpec()
	l := newTrap(t, observing(spec))
	offenders, bystanders := l.Sources(2), l.Sources(2)
	var traps []netnstest.Packet
	for _, src := range offenders {
		traps = append(traps, packets(l, src, lab.TrapTCP)...)
	}
	done := l.meanwhile(func(c *nftset.Conn) {
		for i := range rounds {
			l.Internet.Send(traps...)
			h, err := Open(c, spec.Table)
			for _, src := range offenders {
				if st, lookupErr := h.Lookup(src); err != nil || lookupErr != nil || !h.Observe || st.Step != 1 || len(st.Bans) != 1 {
					t.Errorf("round %d: %v is observed as %+v (%v)", i, src, st, errors.Join(err, lookupErr))
				}
			}
			for _, to := range []Spec{spec, observing(spec)} {
				if p, err := Apply(c, to); err != nil || p.Forgets == to.Observe {
					t.Errorf("round %d: the plan is %v (%v)", i, p, err)
				}
			}
		}
	})
	sent := l.stream(done, nil, slices.Concat(offenders, bystanders))
	t.Logf("%d rounds, %d datagrams of each of %d sources", rounds, sent, len(offenders)+len(bystanders))
	l.Internet.Send(traps...)
	spec.KeepObserved = true
	l.apply(spec)
	l.Cut(offenders...)
	l.Served(bystanders...)
}
