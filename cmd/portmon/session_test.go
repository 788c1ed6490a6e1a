package main

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// session is a connection to a host, such as that of an administrator who sets
// up portmon.
type session struct {
	*testing.T
	*site
	net.Conn
}

func newSession(t *testing.T, s *site, src netip.Addr) session {
	t.Helper()
	conn, err := s.Internet.Dial("tcp", src, netip.AddrPortFrom(s.Link.B.IPv4, 22), lab.Patience)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(2 * lab.Patience))
	return session{t, s, conn}
}

// goesOn fails the test unless what the session sends is answered.
func (s session) goesOn(when string) {
	s.Helper()
	if err := netnstest.Echo(s.Conn); err != nil {
		s.Fatalf("%s: %v", when, err)
	}
}

// droppedPackets returns how many packets of banned sources the host has
// dropped.
func (s *site) droppedPackets(t *testing.T) (n int) {
	t.Helper()
	var status struct {
		Counters map[string]struct{ Packets int }
	}
	if err := json.Unmarshal([]byte(portmon(t, s.Host, "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	return status.Counters["dropped"].Packets
}

// TestSessionOutlastsBan has an administrator who applies, knocks on a trap,
// hangs, and goes on as soon as the ban is lifted.
func TestSessionOutlastsBan(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	site.Host.Listen("tcp", "[::]:22")
	src := site.Link.A.IPv4
	early := newSession(t, site, src)
	early.goesOn("before")
	portmon(t, site.Host, "apply")
	early.goesOn("after the first apply")
	late := newSession(t, site, src)
	portmon(t, site.Host, "apply")
	late.goesOn("after the second apply")

	if got := site.Probe(src, 23); got.Kind != netnstest.NoAnswer {
		t.Fatalf("the trap answers %v", got)
	}
	before := site.droppedPackets(t)
	if _, err := late.Write([]byte("unban")); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "what a banned session sends is dropped", func() bool { return site.droppedPackets(t) > before })
	late.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // an answer takes some µs
	if n, err := late.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a banned session read %d bytes, %v", n, err)
	}

	portmon(t, site.Host, "unban", src.String())
	late.SetReadDeadline(time.Now().Add(2 * lab.Patience))
	b := make([]byte, 5)
	if n, err := late.Read(b); string(b[:n]) != "unban" {
		t.Errorf("after the ban was lifted: read %q, %v", b[:n], err)
	}
	late.goesOn("after the ban")
	early.goesOn("after the ban, the first")
}
