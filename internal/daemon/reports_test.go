package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// TestProven asks a table who is to be reported: not who sent one packet, nor who
// was let off.
func TestProven(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.BanTime = []time.Duration{time.Second, time.Hour}
	s := newScraped(t, spec, true)
	proven := func(src netip.Addr, cause ruleset.Cause, port uint16) bool {
		t.Helper()
		ok, err := s.daemon.proven(&watch.News{Kind: watch.Escalated, Source: netip.PrefixFrom(src, src.BitLen()), Cause: cause, Proto: 6, Port: port})
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	one, three, scanner := source(1), source(2), source(3)
	for _, p := range []struct {
		src  netip.Addr
		port uint16
	}{
		{one, 23}, {three, 1001}, {three, 1002}, {three, 23},
		{scanner, 1001}, {scanner, 1002}, {scanner, 1003}, {scanner, 1004}, {scanner, 1005},
	} {
		s.Internet.Send(s.SYN(p.src, p.port))
	}
	h := s.Open()
	for _, src := range []netip.Addr{one, three, scanner} {
		lab.Await(t, src.String()+" is free", func() bool { st, err := h.Lookup(src); return err == nil && !st.Banned() })
	}
	if proven(three, ruleset.CauseTrap, 23) {
		t.Error("one who is not banned is reported")
	}
	for _, src := range []netip.Addr{one, three, scanner} {
		s.Internet.Send(s.SYN(src, 23))
	}
	for _, src := range []netip.Addr{one, three, scanner} {
		lab.Await(t, src.String()+" is banned", func() bool { st, err := h.Lookup(src); return err == nil && st.Banned() })
	}
	if proven(one, ruleset.CauseTrap, 23) {
		t.Error("one who asked for a single port is reported")
	}
	if !proven(three, ruleset.CauseTrap, 23) || !proven(scanner, ruleset.CauseScan, 1005) {
		t.Error("those who asked for three and five ports are not reported")
	}
	_, err := s.Open().Put([]ruleset.Record{{
		Source: netip.PrefixFrom(three, 32), Allowed: true, Timeout: time.Hour, Remaining: time.Hour, Cause: ruleset.CauseHand,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if proven(three, ruleset.CauseTrap, 23) {
		t.Error("one who is allowed is reported")
	}
}
