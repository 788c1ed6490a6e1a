package nftset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// transcript is what Linux 6.18 told of four runs of nft 1.0.6, in datagrams as
// read from the socket of a little-endian machine:
//
//	add set inet lab ban4 { type ipv4_addr; timeout 8h; counter; }
//	add set inet lab net6 { type ipv6_addr; flags interval, timeout; }
//	add element inet lab ban4 { 192.0.2.1, 192.0.2.2 timeout 3h comment "by hand" }
//	add element inet lab net6 { 2001:db8::/32 timeout 2h }
//
//	delete element inet lab ban4 { 192.0.2.1 }
//
//	add chain inet lab input { type filter hook input priority 0; }
//
//	flush ruleset
const transcript = `
		b4000000090a0004010000009314000001000003080001006c6162000900020062616e34000000000c00100000000000000000010800030000000010
		080004000000000708000500000000040c000b000000000001b774000a000d0000040200000000000400090017001300307866666666666666663832
		353037663430000008001400000000022c0011000c000100636f756e746572001c0002000c00010000000000000000000c0002000000000000000000
		7c000000090a0004020000009314000001000003080001006c616200090002006e657436000000000c00100000000000000000020800030000000014
		080004000000000808000500000000100a000d0000040200000000000400090017001300307866666666666666663832353038306530000008001400
		00000001500000000c0a0004000000009314000001000003080001006c616200090002006e6574360000000028000300240001001800010014000100
		000000000000000000000000000000000800030000000001600000000c0a0004000000009314000001000003080001006c616200090002006e657436
		000000003800030034000100180001001400010020010db80000000000000000000000000c00040000000000006ddd000c00050000000000006ddd00
		500000000c0a0004000000009314000001000003080001006c616200090002006e657436000000002800030024000100180001001400010020010db9
		0000000000000000000000000800030000000001740000000c0a0004000000009314000001000003080001006c6162000900020062616e3400000000
		4c000300480001000c00010008000100c00002012c0007000c000100636f756e746572001c0002000c00010000000000000000000c00020000000000
		000000000c0005000000000001b77400900000000c0a0004000000009314000001000003080001006c6162000900020062616e340000000068000300
		640001000c00010008000100c00002022c0007000c000100636f756e746572001c0002000c00010000000000000000000c0002000000000000000000
		0c0004000000000000a4cb800c0005000000000000a4cb800e000600000862792068616e64000000

		2c0000000f0a000001000000931400000000000308000100000000030800020000001493080003006e667400

		740000000e0a0000000000009514000001000004080001006c6162000900020062616e34000000004c000300480001000c00010008000100c0000201
		2c0007000c000100636f756e746572001c0002000c00010000000000000000000c00020000000000000000000c0005000000000001b773fc

		2c0000000f0a000001000000951400000000000408000100000000040800020000001495080003006e667400

		6c000000030a0004010000009614000001000005080001006c6162000a000300696e7075740000000c00020000000000000000031400040008000100
		00000001080002000000000008000500000000010b00070066696c746572000008000a00000000010800060000000000

		2c0000000f0a000001000000961400000000000508000100000000050800020000001496080003006e667400

		340000000b0a0000010000009714000001000006080001006c6162000900020062616e34000000000c0010000000000000000001340000000b0a0000
		010000009714000001000006080001006c616200090002006e657436000000000c001000000000000000000234000000050a00000100000097140000
		01000006080001006c6162000a000300696e7075740000000c000200000000000000000330000000020a000001000000971400000100000608000100
		6c61620008000300000000000c0004000000000000000001

		2c0000000f0a000001000000971400000000000608000100000000060800020000001497080003006e667400`

// transcriptEvents are the events of each of the runs but for the Commit, as
// briefly writes them.
var transcriptEvents = [][]string{
	{
		"element added ban4 192.0.2.1 left 8h",
		`element added ban4 192.0.2.2 timeout 3h0m0s left 3h "by hand"`,
		"element added net6 2001:db8:: timeout 2h0m0s left 2h",
		"element added net6 2001:db9:: end",
		"element added net6 :: end",
		"set added ban4",
		"set added net6",
	},
	{"element deleted ban4 192.0.2.1 left 8h"},
	nil,
	{"set deleted ban4", "set deleted net6", "table deleted"},
}

// datagrams returns those that are written in hexadecimal, with empty lines
// between.
func datagrams(text string) (all [][]byte) {
	for d := range strings.SplitSeq(text, "\n\n") {
		all = append(all, unhex(d))
	}
	return all
}

// newTestMonitor returns a monitor without a socket for three sets of the table inet lab.
func newTestMonitor() *Monitor {
	d := &Monitor{table: Table{FamilyINet, "lab"}, sets: make(map[string]*Set)}
	for _, s := range []Set{{Name: "ban4", Type: IPv4Addr}, {Name: "net6", Type: IPv6Addr, Flags: FlagInterval}, {Name: "trap", Type: InetService}} {
		s.Table = d.table
		s.Flags |= FlagTimeout
		d.sets[s.Name] = &s
	}
	return d
}

func TestDecodeTranscript(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return // on such a machine the transcript is for the fuzzer to chew on, no more
	}
	d := newTestMonitor()
	var events []Event
	commits := 0
	for _, b := range datagrams(transcript) {
		var err error
		if events, err = d.decode(events, b); err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 || events[len(events)-1].Kind != Commit {
			continue
		}
		last := events[len(events)-1]
		if got, want := briefly(events[:len(events)-1]), transcriptEvents[commits]; !slices.Equal(got, want) {
			t.Errorf("commit %d:\n%q, want\n%q", commits, got, want)
		}
		if last.PortID == 0 || last.PortID != events[0].PortID {
			t.Errorf("commit %d: %+v", commits, last)
		}
		commits++
		events = nil
	}
	if commits != len(transcriptEvents) {
		t.Errorf("%d commits, want %d", commits, len(transcriptEvents))
	}
}

const testPort = 4711

// told returns the messages of a transaction as the kernel repeats them to
// listeners, and the one that ends it.
func told(tx *Tx) []byte {
	b := slices.Concat(tx.enc.b, generation())
	for rest := b; len(rest) > 0; rest = rest[binary.NativeEndian.Uint32(rest):] {
		binary.NativeEndian.PutUint32(rest[12:], testPort)
	}
	return b
}

// generation returns an NFT_MSG_NEWGEN.
func generation() []byte {
	var e encoder
	at := e.begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN, 0, unix.AF_UNSPEC, 0)
	e.u32(unix.NFTA_GEN_ID, 7)
	e.u32(unix.NFTA_GEN_PROC_PID, 815)
	e.string(unix.NFTA_GEN_PROC_NAME, "nft")
	e.finish(at)
	return e.b
}

func TestDecodeEvents(t *testing.T) {
	d := newTestMonitor()
	ban4, net6, trap := d.sets["ban4"], d.sets["net6"], d.sets["trap"]
	other := &Set{Table: d.table, Name: "ban40", Type: IPv4Addr, Flags: FlagTimeout}
	elsewhere := &Set{Table: Table{FamilyIPv4, "lab"}, Name: "ban4", Type: IPv4Addr, Flags: FlagTimeout}
	ban := Element{Interval: Single(Key{lo: 1, typ: IPv4Addr}).Interval, Timeout: time.Hour, Remaining: time.Minute, Comment: "x"}
	v6 := Element{Interval: Interval{Key{hi: 1, typ: IPv6Addr}, Key{hi: 1, lo: 9, typ: IPv6Addr}}}
	commit := Event{Kind: Commit, PortID: testPort}
	single := func(k Key) Element { return Single(k) }

	for _, tt := range []struct {
		name string
		tx   func(*Tx)
		want []Event
	}{
		{"nothing", func(*Tx) {}, nil},
		{"table", func(tx *Tx) { tx.AddTable(d.table); tx.DeleteTable(d.table) }, []Event{{Kind: TableAdded}, {Kind: TableDeleted}, commit}},
		{
			"sets",
			func(tx *Tx) { tx.AddSet(ban4); tx.AddSet(other); tx.DeleteSet(net6); tx.DeleteSet(other) },
			[]Event{{Kind: SetAdded, Set: "ban4"}, {Kind: SetDeleted, Set: "net6"}, commit},
		},
		{
			"elements in one message",
			func(tx *Tx) { tx.AddSeq(ban4, each(ban, single(Key{lo: 2, typ: IPv4Addr}))) },
			[]Event{
				{Kind: ElementAdded, Set: "ban4", Element: ban},
				{Kind: ElementAdded, Set: "ban4", Element: single(Key{lo: 2, typ: IPv4Addr})},
				commit,
			},
		},
		{
			"elements deleted",
			func(tx *Tx) { tx.DeleteSeq(trap, singles(PortKey(23))) },
			[]Event{{Kind: ElementDeleted, Set: "trap", Element: single(PortKey(23))}, commit},
		},
		{
			"interval",
			func(tx *Tx) { tx.AddSeq(net6, each(v6)) },
			[]Event{
				{Kind: ElementAdded, Set: "net6", Element: single(v6.From)},
				{Kind: ElementAdded, Set: "net6", Element: single(Key{hi: 1, lo: 10, typ: IPv6Addr}), End: true},
				commit,
			},
		},
		{
			"element that matches everything", // it has no key
			func(tx *Tx) { tx.Message(unix.NFT_MSG_NEWSETELEM, 0, FamilyINet, catchAll("lab", "ban4"), "", "") },
			[]Event{commit},
		},
		{"another set", func(tx *Tx) { tx.AddSeq(other, each(ban)) }, []Event{commit}},
		{"another kind", func(tx *Tx) { tx.Message(unix.NFT_MSG_NEWCHAIN, 0, FamilyINet, tableName("lab"), "", "") }, []Event{commit}},
		{"another table", func(tx *Tx) { tx.Message(unix.NFT_MSG_NEWCHAIN, 0, FamilyINet, tableName("labs"), "", "") }, nil},
		{"another family", func(tx *Tx) { tx.AddTable(elsewhere.Table); tx.AddSet(elsewhere); tx.AddSeq(elsewhere, each(ban)) }, nil},
		{"no table", func(tx *Tx) { tx.Message(unix.NFT_MSG_NEWSET, 0, FamilyINet, nil, "", "") }, nil},
	} {
		var tx Tx
		tt.tx(&tx)
		if tx.err != nil {
			t.Fatal(tx.err)
		}
		for i := range tt.want {
			tt.want[i].PortID = testPort
		}
		got, err := d.decode(nil, told(&tx))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n%+v, error %v, want\n%+v", tt.name, got, err, tt.want)
		}
	}
}

// tableName returns the attribute that names the table in messages about chains
// and others.
func tableName(name string) []byte {
	var e encoder
	e.string(unix.NFTA_TABLE_NAME, name)
	return e.b
}

// catchAll returns the attributes of an element without a key (Linux 5.13).
func catchAll(table, set string) []byte {
	var e encoder
	e.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	e.string(unix.NFTA_SET_ELEM_LIST_SET, set)
	list := e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	el := e.nest(unix.NFTA_LIST_ELEM)
	e.u32(unix.NFTA_SET_ELEM_FLAGS, 2) // NFT_SET_ELEM_CATCHALL
	e.unnest(el)
	e.unnest(list)
	return e.b
}

// TestDecodeFaultyEvents has messages that cannot be read among others that
// can. A Commit is of the messages since the last.
func TestDecodeFaultyEvents(t *testing.T) {
	d := newTestMonitor()
	one := func(s Set, typ KeyType) []byte {
		var tx Tx
		s.Type = typ
		tx.AddSeq(&s, singles(Key{lo: 1, typ: typ}))
		return tx.enc.b
	}
	good, wrong := one(*d.sets["ban4"], IPv4Addr), one(*d.sets["trap"], IPv4Addr)
	short := bytes.Clone(good)
	binary.NativeEndian.PutUint16(short[nfnl.HeaderLen+nfnl.GenHeaderLen:], 99) // the first attribute
	end := generation()
	for _, tt := range []struct {
		name string
		b    []byte
		want []EventKind
		err  string
	}{
		{"wrong type", slices.Concat(good, wrong, good, end), []EventKind{ElementAdded, ElementAdded, Commit}, "read event of set inet lab trap: its keys are not of type inet_service"},
		{"attribute cut off", slices.Concat(good, short, good, end), []EventKind{ElementAdded, ElementAdded, Commit}, nfnl.ErrShort.Error()},
		{"message cut off", slices.Concat(good, good[:len(good)-1]), []EventKind{ElementAdded}, nfnl.ErrShort.Error()},
		{"commit of what came before", end, []EventKind{Commit}, ""},
		{"commit of nothing", slices.Concat(end, end), nil, ""},
		{"of another subsystem", slices.Concat([]byte(nil), otherSubsystem(good), end), nil, ""},
	} {
		got, err := d.decode(nil, tt.b)
		kinds := make([]EventKind, 0, len(got))
		for _, ev := range got {
			kinds = append(kinds, ev.Kind)
		}
		if err == nil {
			err = errors.New("")
		}
		if !slices.Equal(kinds, tt.want) || err.Error() != tt.err {
			t.Errorf("%s: %v, error %q, want %v, %q", tt.name, kinds, err, tt.want, tt.err)
		}
	}
}

// otherSubsystem returns a message as if it were of another part of netfilter.
func otherSubsystem(msg []byte) []byte {
	b := bytes.Clone(msg)
	typ := binary.NativeEndian.Uint16(b[4:])
	binary.NativeEndian.PutUint16(b[4:], unix.NFNL_SUBSYS_IPSET<<8|typ&0xff)
	return b
}

func TestEventKindString(t *testing.T) {
	for kind, want := range map[EventKind]string{0: "unknown", ElementAdded: "element added", TableDeleted: "table deleted", Overrun: "overrun", Commit: "commit", Overrun + 1: "unknown"} {
		if got := kind.String(); got != want {
			t.Errorf("kind %d: %q, want %q", uint16(kind), got, want)
		}
	}
}

// elementEvents returns a datagram of n messages, each of which adds one
// element, as they come.
func elementEvents(n int) []byte {
	var b []byte
	for _, k := range manyKeys(n) {
		var tx Tx
		tx.AddSeq(newTestMonitor().sets["ban4"], each(Element{Interval: Single(k).Interval, Timeout: time.Hour, Remaining: time.Hour}))
		b = append(b, tx.enc.b...)
	}
	return b
}

func TestDecodeEventsAllocatesNothing(t *testing.T) {
	const n = 40
	d, b := newTestMonitor(), elementEvents(n)
	batch := make([]Event, 0, n)
	allocs := testing.AllocsPerRun(100, func() {
		if got, err := d.decode(batch, b); err != nil || len(got) != n {
			t.Fatal(len(got), err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for %d events", allocs, n)
	}
}

func BenchmarkDecodeEvents(b *testing.B) {
	const n = 40
	d, buf := newTestMonitor(), elementEvents(n)
	batch := make([]Event, 0, n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.decode(batch, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "events/s")
}

// eventSeeds are datagrams: of a kernel, of ours, and some that no kernel
// sends.
func eventSeeds() [][]byte {
	d := newTestMonitor()
	var tx Tx
	tx.AddTable(d.table)
	for _, s := range d.sets {
		tx.AddSet(s)
		tx.AddSeq(s, singles(Key{lo: 1, typ: s.Type}))
		tx.FlushSet(s)
		tx.DeleteSet(s)
	}
	tx.DeleteTable(d.table)
	return append(datagrams(transcript), told(&tx), elementEvents(3), generation(), otherSubsystem(elementEvents(1)), nil)
}

func TestEventSeeds(t *testing.T) {
	if n := len(eventSeeds()); n != 8+5 {
		t.Errorf("%d seeds", n)
	}
}

// FuzzEvents checks that events are of sets that were asked for, with keys of
// their types, and no more than the bytes can hold.
func FuzzEvents(f *testing.F) {
	for _, seed := range eventSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newTestMonitor()
		before := bytes.Clone(b)
		events, _ := d.decode(nil, b)
		if !bytes.Equal(b, before) {
			t.Fatal("the bytes have changed")
		}
		if len(events) > len(b)/8 {
			t.Fatalf("%d events in %d bytes", len(events), len(b))
		}
		for _, ev := range events {
			ofElement := ev.Kind == ElementAdded || ev.Kind == ElementDeleted
			ofSet := ofElement || ev.Kind == SetAdded || ev.Kind == SetDeleted
			s := d.sets[ev.Set]
			if eventKinds[ev.Kind] == "" || ev.Kind == Overrun || ofSet != (s != nil) {
				t.Fatalf("%+v", ev)
			}
			if ofElement && (ev.Element.From.Type() != s.Type || ev.Element.To != ev.Element.From) || !ofElement && ev.Element != (Element{}) {
				t.Fatalf("%+v in a set of %v", ev, s.Type)
			}
		}
	})
}
