package nftset

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// TestObjects adds and deletes tables and sets, and a chain by Message, and
// reads them with Dump.
func TestObjects(t *testing.T) {
	l := newLab(t)
	names := func(typ uint16, family Family, name uint16) []string {
		t.Helper()
		out := []string{}
		for attrs, err := range l.Dump(typ, family, nil) {
			if err != nil {
				t.Fatal(err)
			}
			for a, err := range nfnl.Attrs(attrs) {
				if err != nil {
					t.Fatal(err)
				}
				if a.Type == name {
					out = append(out, string(a.Text()))
				}
			}
		}
		slices.Sort(out)
		return out
	}
	var tx Tx
	tx.AddTable(l.table) // is there
	tx.AddTable(Table{FamilyIPv4, "second"})
	s := &Set{Table: l.table, Name: "s", Type: IPv4Addr}
	tx.AddSet(s)
	var e encoder
	e.string(unix.NFTA_CHAIN_TABLE, l.table.Name)
	e.bytes(unix.NFTA_CHAIN_NAME, []byte("guard\x00"))
	tx.Message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, l.table.Family, e.b, "add chain", l.table.String()+" guard")
	l.commit(&tx)
	if got := names(unix.NFT_MSG_GETTABLE, FamilyINet, unix.NFTA_TABLE_NAME); !slices.Equal(got, []string{"lab"}) {
		t.Errorf("tables of inet: %q", got)
	}
	if got := names(unix.NFT_MSG_GETTABLE, 0, unix.NFTA_TABLE_NAME); !slices.Equal(got, []string{"lab", "second"}) {
		t.Errorf("tables: %q", got)
	}
	if got := names(unix.NFT_MSG_GETCHAIN, FamilyINet, unix.NFTA_CHAIN_NAME); !slices.Equal(got, []string{"guard"}) {
		t.Errorf("chains: %q", got)
	}

	for attrs, err := range l.Dump(unix.NFT_MSG_GETSETELEM, FamilyINet, listOf(&Set{Table: l.table, Name: "none"})) {
		if err != unix.ENOENT || attrs != nil {
			t.Errorf("dump of what is not there: %x, %v", attrs, err)
		}
	}

	// While a rule uses the set it can not be deleted.
	l.nft("add rule inet lab guard ip saddr @s drop")
	tx = Tx{}
	tx.DeleteSet(s)
	err := l.Commit(&tx)
	if want := "delete set inet lab s: it is in use"; !errors.Is(err, unix.EBUSY) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	l.nft("flush chain inet lab guard")
	tx.DeleteTable(Table{FamilyIPv4, "second"})
	l.commit(&tx)
	if sets, err := l.Sets(l.table); err != nil || len(sets) != 0 {
		t.Errorf("sets: %v, %v", sets, err)
	}
	if got := names(unix.NFT_MSG_GETTABLE, 0, unix.NFTA_TABLE_NAME); !slices.Equal(got, []string{"lab"}) {
		t.Errorf("tables: %q", got)
	}
}

// TestGeneration counts transactions, ours and others'.
func TestGeneration(t *testing.T) {
	l := newLab(t)
	generation := func() uint32 {
		t.Helper()
		g, err := l.Generation()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	first := generation()
	if again := generation(); again != first {
		t.Errorf("asking changed the generation from %d to %d", first, again)
	}
	s := &Set{Table: l.table, Name: "s", Type: IPv4Addr}
	var tx Tx
	tx.AddSet(s)
	l.commit(&tx)
	second := generation()
	l.read(s)
	if again := generation(); again != second {
		t.Errorf("reading changed the generation from %d to %d", second, again)
	}
	l.nft("add set inet lab t { type ipv4_addr; }")
	if third := generation(); second != first+1 || third != second+1 {
		t.Errorf("generations %d, %d, %d", first, second, third)
	}
	if err := l.Commit(&Tx{}); err != nil || generation() != second+1 {
		t.Errorf("an empty transaction: %v", err)
	}
}

// TestFlushSet empties a set and nothing else.
func TestFlushSet(t *testing.T) {
	l := newLab(t)
	a := l.set("a", InetService, 0, Element{Interval: iv("22")})
	b := l.set("b", InetService, FlagInterval, Element{Interval: iv("22")}, Element{Interval: iv("80-90")})
	var tx Tx
	tx.FlushSet(b)
	l.commit(&tx)
	if got := l.read(b); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	if got := l.intervals(a); !slices.Equal(got, ivs("22")) {
		t.Errorf("the other set: %v", got)
	}
}
