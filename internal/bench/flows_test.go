package bench

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// contender is one of the rulesets that packets are sent through.
type contender struct {
	name    string
	install func(*site)
}

// seed is the table as people write it by hand, and seed6 the same table with
// bans of IPv6 too, which is what portmon is fairly compared to.
var (
	//go:embed seed.nft
	seed string
	//go:embed seed6.nft
	seed6 string
)

// tracked turns conntrack on, as nearly every host has it, by a rule that any
// firewall begins with.
const tracked = `table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state invalid counter
	}
}
`

// withText is the contender whose table nft loads.
func withText(name, text string) contender {
	return contender{name, func(s *site) { s.load(tracked + text) }}
}

// contenders are these; others are compared to the second.
var contenders = []contender{
	withText("no table", ""), withText("hand-written table", seed), withText("the same with IPv6 bans", seed6), portmonTable,
}

// portmonTable is what portmon installs when it has no configuration.
var portmonTable = contender{"portmon", func(s *site) {
	s.load(tracked)
	s.portmon("apply")()
	s.arm()
}}

// arm ends the grace after the installation of a table, during which no port is
// a trap.
func (s *site) arm() { s.load("flush set inet portmon starting\n") }

var (
	innocents  = netip.MustParsePrefix("198.51.100.0/24")
	innocents6 = netip.MustParsePrefix("2001:db8:1::/48")
	outlaws    = netip.MustParsePrefix("203.0.113.0/24")
	crowd      = netip.MustParsePrefix("198.18.0.0/15")
	crowd6     = netip.MustParsePrefix("2001:db8:2::/48")
)

const (
	few  = 64   // sources are always in the caches, and go out in one system call
	many = 4096 // sources are not
)

// flow is a kind of packet.
type flow struct {
	name    string
	from    netip.Prefix
	sources int
	frames  func(*site, []netip.Addr) [][]byte
}

// BenchmarkWarm measures what the table costs a packet.
func BenchmarkWarm(b *testing.B) {
	comparePackets(b, "CPU time per packet, 64 sources", []flow{
		{"UDP to an open port", innocents, few, datagrams},
		{"the same by IPv6", innocents6, few, datagrams},
		{"TCP, established", innocents, few, acknowledgements},
		{"SYN to an open port", innocents, few, synsTo(portFull)},
		{"the same by IPv6", innocents6, few, synsTo(portFull)},
		{"SYN to a closed port", innocents, few, synsTo(portClosed)},
		{"SYN of a banned source", outlaws, few, synsTo(portFull)},
	})
}

// BenchmarkCold measures it where neither sources nor bans are in the caches.
func BenchmarkCold(b *testing.B) {
	comparePackets(b, "CPU time per packet, 4,096 sources", []flow{
		{"UDP to an open port", crowd, many, datagrams},
		{"the same by IPv6", crowd6, many, datagrams},
		{"SYN to an open port", crowd, many, synsTo(portFull)},
		{"the same by IPv6", crowd6, many, synsTo(portFull)},
	})
}

const (
	// turn is how many packets of a flow are sent before it is the next
	// contender's turn: some 3 ms, or all of them once if there are more.
	turn = 1024
	// epochs is how many there are for each repetition of a command. What a
	// packet costs depends on where things lie in memory, so each epoch has new
	// hosts, and everything is done in a random order: of the same tables, those
	// whose connections are tracked first cost up to 50 ns more.
	epochs = 5
	// turns is how often it is each contender's turn in an epoch.
	turns = 8
	// reference is the index of the contender that others are compared to.
	reference = 1
)

// comparePackets makes a table with a row for each contender.
func comparePackets(b *testing.B, caption string, flows []flow) {
	t := &table{caption: caption, text: 1, columns: []string{"table"}, note: "Time of one CPU for sending a packet, taking it " +
		"through a veth pair, and all that the receiver's kernel does with it. In brackets the difference to the hand-written table. " +
		"Connection tracking is on, and " + thousands(size(bans)) + " sources of each family are banned."}
	costs := make([][][]float64, len(contenders)) // of each contender, of each flow: for each epoch the median of its turns
	for range *rounds * epochs {
		// With a scope of its own, which ends its hosts.
		if !b.Run("epoch", func(b *testing.B) { runEpoch(b, flows, costs) }) {
			b.FailNow()
		}
	}
	for _, f := range flows {
		t.columns = append(t.columns, f.name)
	}
	for i, c := range contenders {
		row := []string{c.name}
		for f := range flows {
			d := pairs(costs[i][f], costs[reference][f], func(a, b float64) float64 { return a - b })
			row = append(row, fmt.Sprintf("%.0f ns (%+.0f)", median(costs[i][f]), median(d)))
		}
		t.row(row...)
	}
	t.write()
}

// runEpoch sends each flow to each contender in turn.
func runEpoch(b *testing.B, flows []flow, costs [][][]float64) {
	lanes := make([]*lane, len(contenders))
	for _, i := range rand.Perm(len(lanes)) {
		lanes[i] = newLane(b, contenders[i], flows)
		if costs[i] == nil {
			costs[i] = make([][]float64, len(flows))
		}
	}
	defer pin(b)()
	for f, flow := range flows {
		of := make([][]float64, len(lanes))
		for range turns {
			for _, i := range rand.Perm(len(lanes)) {
				of[i] = append(of[i], lanes[i].flows[f].send(max(1, turn/flow.sources)))
			}
		}
		for i, c := range contenders {
			costs[i][f] = append(costs[i][f], median(of[i]))
			sample(b, flow.name, c.name, "%.1f ns/op", median(of[i]))
		}
	}
}

// lane is a site with a ruleset, and what is sent to it.
type lane struct {
	*site
	flows []*injector
}

// bans is how many are in the set of each family: nearly as many as it takes.
const bans = 60_000

// newLane makes a host, and checks that packets of each flow get as far as they
// should.
func newLane(b *testing.B, c contender, flows []flow) *lane {
	l := &lane{site: newSite(b, standard, "")}
	c.install(l.site)
	l.fill("ban4", append(sourcesOf(outlaws, few), randomAddrs(size(bans))...))
	l.fill("ban6", randomAddrs6(size(bans)))
	// Sockets with as little room as there is, and the backlog of the one that
	// listens is full.
	l.listen(unix.SOCK_DGRAM, portUDP)
	l.listen(unix.SOCK_STREAM, portFull)
	_, err := l.link.A.Host.Dial("tcp", netip.Addr{}, netip.AddrPortFrom(l.link.B.IPv4, portFull), 5*time.Second)
	check(b, err)
	defer pin(b)()
	for i, f := range flows {
		l.flows = append(l.flows, l.injector(f.frames(l.site, sourcesOf(f.from, f.sources))))
		l.flows[i].send(1) // fills the UDP socket: what waits in it is not counted
		before := l.received()
		l.flows[i].send(1)
		want := f.sources
		if f.from == outlaws && l.has("ban4") {
			want = 0
		}
		if got := l.received() - before; got != float64(want) {
			l.b.Fatalf("%s: %v of %d packets of %q got to a socket, %d should have", c.name, got, f.sources, f.name, want)
		}
	}
	return l
}

// listen opens a socket of both families.
func (s *site) listen(typ, port int) {
	s.host.Do(func() {
		fd, err := unix.Socket(unix.AF_INET6, typ|unix.SOCK_CLOEXEC, 0)
		check(s.b, err)
		s.b.Cleanup(func() { unix.Close(fd) })
		check(s.b, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
		check(s.b, unix.Bind(fd, &unix.SockaddrInet6{Port: port}))
		if typ == unix.SOCK_STREAM {
			check(s.b, unix.Listen(fd, 0))
		}
	})
}

// received returns how many packets have got to the host's sockets, or would
// have if there were one.
func (s *site) received() (n float64) {
	s.host.Do(func() {
		fs, err := procfs.NewDefaultFS()
		check(s.b, err)
		thread, err := fs.Thread(os.Getpid(), unix.Gettid())
		check(s.b, err)
		v4, err := thread.Snmp()
		check(s.b, err)
		v6, err := thread.Snmp6()
		check(s.b, err)
		n = *v4.Udp.InDatagrams + *v4.Udp.InErrors + *v6.Udp6.InDatagrams + *v6.Udp6.InErrors + *v4.Tcp.InSegs
	})
	return n
}
