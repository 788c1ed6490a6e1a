package nflog

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

const (
	group    = 513
	patience = 20 * time.Second // ends a test that fails
)

// lab is a host with a rule that logs every packet to port 9, and the outside, from which they come.
type lab struct {
	t             testing.TB
	host, outside *netnstest.Host
	link          *netnstest.Link // its end A is the outside's, B the host's
}

// rules logs as portmon's own table does, but more than once for each source.
const rules = `table inet lab {
	chain input {
		type filter hook input priority -10
		meta l4proto { tcp, udp } th dport 9 log prefix "portmon ban" group 513 snaplen 64 queue-threshold 16 drop
	}
}
`

func newLab(t testing.TB) *lab {
	t.Helper()
	l := newBareLab(t)
	l.nft(rules)
	return l
}

// newBareLab makes a lab without the rule.
func newBareLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, host: netnstest.NewHost(t, "host"), outside: netnstest.NewHost(t, "outside")}
	l.link = netnstest.Connect(t, l.outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	return l
}

// nft runs a script on the host.
func (l *lab) nft(script string) {
	l.t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		l.t.Fatal("install nftables: these tests log by rules that nft writes")
	}
	l.host.Do(func() {
		cmd := exec.Command(path, "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			l.t.Fatalf("nft -f: %v: %s", err, out)
		}
	})
}

// dial listens to the host's group, and not longer than patience for a message.
func (l *lab) dial(readBuffer int) *Conn {
	l.t.Helper()
	c, err := Dial(&Config{Group: group, NetNS: l.host.FD(), ReadBuffer: readBuffer})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			l.t.Error(err)
		}
	})
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		l.t.Fatal(err)
	}
	return c
}

// knock sends n datagrams to the port that the rule logs, and returns when they have been logged.
func (l *lab) knock(n int) {
	l.t.Helper()
	to := netip.AddrPortFrom(l.link.B.IPv4, 9)
	l.outside.Sender("").Burst(n, func(int) netnstest.Packet { return netnstest.Datagram(l.link.A.IPv4, to, "") })
}

// receive returns the next n messages, of which none must be lost, and the number of datagrams they came in.
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

// checkTime checks that a message tells a time from before to now. Linux 5.10 tells none of the packets of these tests, and from 6.6
// on every kernel must.
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
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
