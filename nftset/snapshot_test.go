package nftset

import (
	"errors"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// everyKind has what nft can make that a snapshot must have. The elements of
// hash sets are one each, because they are listed in the order of a hash.
const everyKind = `
table inet lab {
	comment "all of it"
	counter seen { packets 7 bytes 700 }
	quota some { 25 mbytes used 3 mbytes }
	set plain { type ipv4_addr; size 100; comment "a set"; elements = { 192.0.2.1 } }
	set counting { type ipv4_addr; flags dynamic,timeout; timeout 1h; counter; elements = { 192.0.2.2 counter packets 5 bytes 50 timeout 2h expires 90m comment "x" } }
	set limited { type ipv4_addr . inet_service; flags dynamic; size 10; }
	set forever { type ipv6_addr; flags timeout; timeout 1h; elements = { 2001:db8::1 timeout 0s } }
	set passing { type ipv4_addr; flags timeout; elements = { 192.0.2.4 timeout 300ms } }
	set nets { type ipv4_addr; flags interval,timeout; elements = { 10.0.0.0/8, 11.0.0.0/8 timeout 1h comment "next to it", 255.255.255.0/24 } }
	set ports { type inet_service; elements = { 22 } }
	chain one {
		type filter hook input priority -5; policy drop;
		ip saddr @plain counter packets 3 bytes 30 jump two comment "with a comment"
		ip saddr @nets counter name seen limit rate 3/second burst 7 packets accept
		add @limited { ip saddr . udp dport limit rate over 1/week burst 4 packets } drop
		ip saddr 192.0.2.3 drop
		update @counting { ip saddr timeout 3h counter } log prefix "p" group 5
		add @forever { ip6 saddr }
		quota name "some" drop
	}
	chain two { tcp dport @ports ct state related accept; }
}
`

func TestSnapshot(t *testing.T) {
	l := newLab(t)
	l.nft(everyKind)
	// By a packet, because nft of Debian 11 cannot add such an element.
	outside := netnstest.NewHost(t, "outside")
	link := netnstest.Connect(t, outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	outside.Send(netnstest.Datagram(netip.MustParseAddr("192.0.2.3"), netip.AddrPortFrom(link.B.IPv4, 22), ""))
	l.nft("table inet other {\n set s { type ipv4_addr; elements = { 192.0.2.9 } }\n chain c {\n}\n}")
	// Not the ruleset: the kernel lists a table that was made anew behind others.
	// What is left of timeouts goes on, and nft of Debian 11 lists it all the same.
	expires := regexp.MustCompile(` expires \w+`)
	list := func() string {
		return expires.ReplaceAllString(l.nft("", "-s", "list", "table", "inet", "lab"), "") + l.nft("", "list", "counters")
	}
	s, err := l.Snapshot(l.table)
	if err != nil || !s.Exists {
		t.Fatalf("%v, %+v", err, s)
	}
	lab.Await(t, "an element expires", func() bool { return !strings.Contains(list(), "192.0.2.4") })
	before := list()
	if limited := "192.0.2.3 . 22 limit rate over 1/week burst 4 packets"; !strings.Contains(before, limited) {
		t.Fatalf("no packet added %s:\n%s", limited, before)
	}
	for name, change := range map[string]string{
		"other contents": "flush chain inet lab two\nadd element inet lab plain { 203.0.113.1 }\nadd chain inet lab three\n" +
			"delete element inet lab counting { 192.0.2.2 }\nreset counter inet lab seen",
		"no table":      "delete table inet lab",
		"another table": "delete table inet lab\nadd table inet lab { flags dormant; }\nadd set inet lab plain { type ipv6_addr; }",
		"nothing else":  "list tables",
	} {
		l.nft(change)
		if err := l.Restore(s, everything); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if after := list(); after != before {
			t.Errorf("%s: it is\n%s\nwant\n%s", name, after, before)
		}
	}
	// What matters least may come later.
	if tx, rest := s.restore(func(set *Set) bool { return set.Name != "counting" }); len(rest) != 1 || rest[0].Name != "counting" {
		t.Errorf("what is left to do: %+v", rest)
	} else {
		l.commit(tx)
	}
}

// TestSnapshotOfTimeouts has what is left of timeouts go on from the snapshot.
func TestSnapshotOfTimeouts(t *testing.T) {
	l := newLab(t)
	key := addr("192.0.2.1")
	set := l.set("s", IPv4Addr, FlagTimeout, Element{Interval: Single(key).Interval, Timeout: time.Hour, Remaining: 30 * time.Minute})
	s, err := l.Snapshot(l.table)
	if err != nil {
		t.Fatal(err)
	}
	s.at = s.at.Add(-10 * time.Minute) // as if it was taken then
	if err := l.Restore(s, everything); err != nil {
		t.Fatal(err)
	}
	el, err := l.Get(set, key)
	if d := el.Remaining - 20*time.Minute; err != nil || el.Timeout != time.Hour || d.Abs() > time.Second {
		t.Errorf("%+v, %v", el, err)
	}
	s.at = s.at.Add(-time.Hour)
	if err := l.Restore(s, everything); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Get(set, key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there although it has expired: %v", err)
	}
}

func TestSnapshotRefused(t *testing.T) {
	for name, script := range map[string]string{
		"a map":               "add map inet lab m { type ipv4_addr : inet_service; }",
		"an anonymous set":    "add chain inet lab c\nadd rule inet lab c tcp dport { 22, 23 } accept",
		"intervals of tuples": "add set inet lab s { type ipv4_addr . inet_service; flags interval; }",
	} {
		l := newLab(t)
		l.nft(script)
		before := l.nft("", "list", "ruleset")
		if _, err := l.Snapshot(l.table); err == nil {
			t.Errorf("%s: taken", name)
		}
		if after := l.nft("", "list", "ruleset"); after != before {
			t.Errorf("%s: it has become %s", name, after)
		}
	}
	l := newLab(t)
	none, err := l.Snapshot(Table{FamilyINet, "none"})
	if err != nil || none.Exists {
		t.Fatalf("no table: %+v, %v", none, err)
	}
	none.Table = l.table
	if err := l.Restore(none, everything); err != nil {
		t.Error(err)
	}
	if err := l.Restore(none, everything); err != nil {
		t.Error(err)
	}
	if _, err := l.Set(l.table, "s"); !errors.Is(err, os.ErrNotExist) || strings.Contains(l.nft("", "list", "tables"), "lab") {
		t.Errorf("the table is there: %v", err)
	}
}
