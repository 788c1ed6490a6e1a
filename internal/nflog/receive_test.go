package nflog

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// TestBansAreTold has portmon's own table: one message for each source, however
// often it comes.
func TestBansAreTold(t *testing.T) {
	table := banlab.New(t)
	l := &fixture{table.Lab}
	spec := ruleset.Default()
	spec.Grace = 0
	spec.TrapUDP = []ruleset.Ports{{From: 161, To: 161}}
	table.Apply(spec)
	c := l.dial(0)

	source := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	packets := []netnstest.Packet{
		{Proto: netnstest.TCP, Src: source("192.0.2.33:1024"), Dst: netip.AddrPortFrom(l.Link.B.IPv4, 23), Flags: netnstest.FlagSYN},
		{Proto: netnstest.TCP, Src: source("[2001:db8::33]:1025"), Dst: netip.AddrPortFrom(l.Link.B.IPv6, 5910), Flags: netnstest.FlagSYN},
		{Proto: netnstest.TCP, Src: source("192.0.2.34:1026"), Dst: netip.AddrPortFrom(l.Link.B.IPv4, 6379), Flags: netnstest.FlagFIN | netnstest.FlagURG},
		{Proto: netnstest.UDP, Src: source("192.0.2.35:1027"), Dst: netip.AddrPortFrom(l.Link.B.IPv4, 161)},
	}
	before := time.Now()
	for _, p := range packets {
		l.Internet.Send(p)
		l.Internet.Send(p)
	}
	got, _ := receive(t, c, len(packets))

	for i, m := range got {
		checkTime(t, m, before)
		before = m.Time
		p := packets[i]
		want := Message{
			Time: m.Time, Prefix: "portmon trap 1",
			Src: p.Src.Addr(), DstPort: p.Dst.Port(),
			Proto: uint8(p.Proto), Seq: uint32(i),
		}
		if m != want {
			t.Errorf("message %d:\n%+v, want\n%+v", i, m, want)
		}
	}
}

// TestLatency fails with the kernel's own settings, by which a message waits a
// second for others. The best of a few tries does not depend on what else the
// machine has to do.
func TestLatency(t *testing.T) {
	l := newLab(t)
	c := l.dial(0)
	best := time.Hour
	for range 5 {
		start := time.Now()
		l.knock(1)
		receive(t, c, 1)
		best = min(best, time.Since(start))
	}
	t.Logf("%v from the packet to its message", best)
	if best > 700*time.Millisecond {
		t.Errorf("a message takes %v at least", best)
	}
}

func TestMessagesComeTogether(t *testing.T) {
	l := newLab(t)
	c := l.dial(0)
	const n = 320 // what a buffer of the usual 212,992 bytes holds
	l.knock(n)
	_, datagrams := receive(t, c, n)
	t.Logf("%d messages in %d datagrams", n, datagrams)
	if datagrams > n/4 {
		t.Errorf("%d messages came in %d datagrams", n, datagrams)
	}
}

// TestOverrun logs more than the buffer holds while nobody reads. Every message
// is either received or counted as lost.
func TestOverrun(t *testing.T) {
	l := newLab(t)
	c := l.dial(32 << 10)
	const sent = 50_000
	l.knock(sent)

	var batch []Message
	received, total := 0, Lost{}
	next := func() {
		t.Helper()
		var lost Lost
		var err error
		if batch, lost, err = c.Receive(batch[:0]); err != nil {
			t.Fatal(err)
		}
		received += len(batch)
		total.Messages += lost.Messages
		if lost.Overrun {
			if total.Overrun {
				t.Error("the overrun was told twice")
			}
			total.Overrun = true
		}
	}
	for !total.Overrun {
		next()
	}
	if received == 0 {
		t.Error("the overrun was told before the messages that came first")
	}
	l.knock(1) // its number tells how many are missing
	for received+total.Messages < sent+1 {
		next()
	}
	t.Logf("received %d, lost %d", received, total.Messages)
	if received+total.Messages != sent+1 || total.Messages == 0 {
		t.Errorf("received %d and lost %d, which is not %d", received, total.Messages, sent+1)
	}
	l.knock(5)
	receive(t, c, 5)
}

// TestGap wraps around, and is not misled by messages without a number, that
// come first.
func TestGap(t *testing.T) {
	for _, tt := range []struct {
		name string
		next uint32
		seq  []uint32
		want []int
	}{
		{"in order", 0, []uint32{0, 1, 2}, []int{0, 0, 0}},
		{"first missing", 0, []uint32{3, 4}, []int{3, 0}},
		{"some missing", 7, []uint32{8, 100}, []int{1, 91}},
		{"wrapping", 1<<32 - 2, []uint32{1<<32 - 2, 1<<32 - 1, 0, 1}, []int{0, 0, 0, 0}},
		{"missing where it wraps", 1<<32 - 2, []uint32{1<<32 - 2, 2}, []int{0, 3}},
		{"without a number", 0, []uint32{0, 0, 0, 1, 2}, []int{0, 0, 0, 0, 0}},
	} {
		c := Conn{next: tt.next}
		for i, seq := range tt.seq {
			if got := c.gap(seq); got != tt.want[i] {
				t.Errorf("%s: before %d: %d are missing, want %d", tt.name, seq, got, tt.want[i])
			}
		}
	}
}

// TestUnbind stops listening while the kernel holds messages back: they come,
// then the end, and another can listen.
func TestUnbind(t *testing.T) {
	l := newLab(t)
	for n := range 20 {
		c := l.dial(0)
		l.knock(n)
		if err := c.Unbind(); err != nil {
			t.Fatal(err)
		}
		l.knock(1) // is for nobody
		receive(t, c, n)
		if late, lost, err := c.Receive(nil); err != io.EOF || len(late) > 0 || lost != (Lost{}) {
			t.Fatalf("after %d messages: %v, %+v, %v, want io.EOF", n, late, lost, err)
		}
	}
}
