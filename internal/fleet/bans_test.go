package fleet

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/ruleset"
)

// message is a ban as the stream has it.
type message struct {
	jetstream.Msg
	subject string
	data    []byte
}

func (m *message) Metadata() (*jetstream.MsgMetadata, error) { return new(jetstream.MsgMetadata), nil }
func (m *message) Subject() string                           { return m.subject }
func (m *message) Data() []byte                              { return m.data }

// ledger is a table that remembers what it was told.
type ledger struct {
	put    []ruleset.Record
	lifted []netip.Prefix
}

func (l *ledger) PutFleet(bans []ruleset.Record) ([]error, int, error) {
	l.put = append(l.put, bans...)
	return nil, 0, nil
}

func (l *ledger) LiftFleet(sources ...netip.Prefix) error {
	l.lifted = append(l.lifted, sources...)
	return nil
}

func (l *ledger) CountFleet() (int, error) { return len(l.put), nil }

func newTestClient(t *testing.T, maxBan time.Duration) (*Client, *ledger) {
	t.Helper()
	table, ignore := new(ledger), func(string, ...any) {}
	return New(Config{
		Member: newMember(t), State: filepath.Join(t.TempDir(), "state.jsonl"), MaxBan: maxBan, Table: table, Info: ignore, Warn: ignore,
	}), table
}

// TestMaxBan has bans of 3 days told to a host that allows an hour: one that has
// lasted that long here is over, however often it is told.
func TestMaxBan(t *testing.T) {
	t.Parallel()
	c, table := newTestClient(t, time.Hour)
	now := time.Now()
	c.lookAt = now.Add(time.Hour) // nothing is protected
	pending := &batch{bans: make(map[netip.Prefix]ban)}
	for address, ago := range map[string]time.Duration{"203.0.113.7/32": 2 * time.Hour, "203.0.113.8/32": 20 * time.Minute} {
		b := &wire.Ban{
			Source: netip.MustParsePrefix(address), Step: 3, Length: 3 * 24 * 3600, Hosts: 1, First: now.Add(-ago), Last: now.Add(-ago),
			By: []wire.Report{{Host: "web-2", At: now.Add(-ago), Cause: wire.Trap}},
		}
		data, err := wire.Encode(b)
		if err != nil {
			t.Fatal(err)
		}
		c.note(&message{subject: wire.BanPrefix + wire.Key(b.Source), data: data}, pending)
	}
	if err := c.flush(t.Context(), pending); err != nil {
		t.Fatal(err)
	}
	if len(table.put) != 1 || table.put[0].Source.String() != "203.0.113.8/32" || table.put[0].Remaining > 40*time.Minute {
		t.Errorf("put %+v, want 203.0.113.8/32 for what is left of an hour", table.put)
	}
	if len(table.lifted) != 1 || table.lifted[0].String() != "203.0.113.7/32" {
		t.Errorf("lifted %v, want the ban that is over here", table.lifted)
	}
}

// TestLostEnd has a hub begin anew without the end of its stream.
func TestLostEnd(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]uint64{"before what was seen": 120, "before the last answer": 90} {
		c, _ := newTestClient(t, time.Hour)
		created := time.Now()
		answer := func(last uint64) (resync bool) {
			c.mu.Lock()
			c.checkStream(&wire.Answer{Created: created, Last: last})
			c.mu.Unlock()
			return len(c.resync) > 0
		}
		if answer(100) {
			t.Errorf("%s: the first answer has all put anew", name)
		}
		c.seen.Store(150) // of what the hub has told since
		for range 2 {
			if answer(150) {
				t.Errorf("%s: an answer that is in order has all put anew", name)
			}
		}
		c.seen.Store(160)
		c.onChange(nil)
		if !answer(last) {
			t.Errorf("%s: the bans that were lost are not put anew", name)
		}
	}
}
