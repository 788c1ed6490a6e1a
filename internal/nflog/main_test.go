package nflog

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

const group = 513

// fixture is a lab whose host logs packets.
type fixture struct{ *lab.Lab }

// newLab makes a lab whose host logs and drops what is for TCP and UDP port 9,
// in the way of portmon's own table, but more than once for each source.
func newLab(t testing.TB) *fixture {
	t.Helper()
	l := &fixture{lab.New(t)}
	port := func(proto byte) []expr.Any {
		return append(is(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, proto),
			is(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, 0, 9)...)
	}
	l.log(&nftables.Chain{Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRef(-10)},
		&expr.Log{QThreshold: 16, Key: 1 << unix.NFTA_LOG_QTHRESHOLD}, port(unix.IPPROTO_TCP), port(unix.IPPROTO_UDP))
	return l
}

// is loads something into register 1 and compares it with a value.
func is(load expr.Any, value ...byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

// log adds a chain of rules, each of which logs and drops the packets that it
// matches. They do not come from nft, which not every machine has.
func (l *fixture) log(chain *nftables.Chain, log *expr.Log, matches ...[]expr.Any) {
	l.T.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(l.Host.FD()))
	if err != nil {
		l.T.Fatal(err)
	}
	chain.Name, chain.Type = "log", nftables.ChainTypeFilter
	chain.Table = c.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyINet})
	c.AddChain(chain)
	log.Group, log.Snaplen, log.Data = group, 64, []byte("portmon ban")
	log.Key |= 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_PREFIX
	for _, match := range matches {
		c.AddRule(&nftables.Rule{
			Table: chain.Table, Chain: chain, Exprs: append(match, log, &expr.Verdict{Kind: expr.VerdictDrop}),
		})
	}
	if err := c.Flush(); err != nil {
		l.T.Fatal(err)
	}
}

// dial listens to the host's group, and not longer than patience for a message.
func (l *fixture) dial(readBuffer int) *Conn {
	l.T.Helper()
	c, err := Dial(&Config{Group: group, NetNS: l.Host.FD(), ReadBuffer: readBuffer})
	if err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(func() {
		if err := c.Close(); err != nil {
			l.T.Error(err)
		}
	})
	if err := c.SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
		l.T.Fatal(err)
	}
	return c
}

// knock sends n datagrams to the port that the rule logs, and returns when they
// have been logged.
func (l *fixture) knock(n int) {
	l.T.Helper()
	to := netip.AddrPortFrom(l.Link.B.IPv4, 9)
	l.Internet.Burst(n, func(int) netnstest.Packet { return netnstest.Datagram(l.Link.A.IPv4, to, "") })
}

// receive returns the next n messages, of which none must be lost, and the
// number of datagrams they came in.
func receive(t testing.TB, c *Conn, n int) (batch []Message, datagrams int) {
	t.Helper()
	for len(batch) < n {
		var lost Lost
		var err error
		if batch, lost, err = c.Receive(batch); err != nil || lost != (Lost{}) {
			t.Fatalf("after %d messages of %d: lost %+v, error %v", len(batch), n, lost, err)
		}
		datagrams++
	}
	if len(batch) > n {
		t.Fatalf("%d messages, want %d", len(batch), n)
	}
	return batch, datagrams
}

// checkTime checks that a message tells a time from before to now. Linux 5.10
// tells none of the packets of these tests, and from 6.6 on every kernel must.
func checkTime(t testing.TB, m Message, before time.Time) {
	t.Helper()
	var name unix.Utsname
	var major, minor int
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("kernel release %q: %v", name.Release, err)
	}
	if m.Time.IsZero() && (major < 6 || major == 6 && minor < 6) {
		return
	}
	if before, now := before.Truncate(time.Microsecond), time.Now(); m.Time.Before(before) || m.Time.After(now) {
		t.Errorf("message %d: at %v, which is not from %v to %v", m.Seq, m.Time, before, now)
	}
}

// awaitBlocked returns when a goroutine waits in Receive.
func awaitBlocked(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	for stacks := make([]byte, 1<<20); ctx.Err() == nil; runtime.Gosched() {
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "nflog.(*Conn).Receive(") {
				return
			}
		}
	}
	t.Fatal("nobody waits in Receive")
}
