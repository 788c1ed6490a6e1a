package nftset_test

import (
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"time"

	"github.com/portmon/portmon/nftset"
)

var fw = nftset.Table{Family: nftset.FamilyINet, Name: "fw"}

// newSet adds an empty set to the table fw.
func newSet(conn *nftset.Conn, s nftset.Set) *nftset.Set {
	s.Table = fw
	var tx nftset.Tx
	tx.AddTable(fw)
	tx.AddSet(&s)
	if err := conn.Commit(&tx); err != nil {
		log.Fatal(err)
	}
	return &s
}

func dial() *nftset.Conn {
	conn, err := nftset.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

// A table with a set, and two elements in it, in one transaction.
func Example() {
	conn, err := nftset.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	table := nftset.Table{Family: nftset.FamilyINet, Name: "example"}
	banned := &nftset.Set{
		Table: table, Name: "banned", Type: nftset.IPv4Addr,
		Flags: nftset.FlagInterval | nftset.FlagTimeout, Timeout: 8 * time.Hour,
	}
	var tx nftset.Tx
	tx.AddTable(table)
	tx.AddSet(banned)
	tx.Add(banned,
		nftset.Addr(netip.MustParseAddr("192.0.2.1")).For(24*time.Hour),
		nftset.Prefix(netip.MustParsePrefix("198.51.100.0/24")))
	if err := conn.Commit(&tx); err != nil {
		log.Fatal(err)
	}

	for el, err := range conn.Elements(banned) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(el, el.Remaining.Round(time.Hour))
	}
	// Output:
	// 192.0.2.1 24h0m0s
	// 198.51.100.0/24 8h0m0s
}

// A set that another program made is asked from the kernel.
func ExampleConn_Set() {
	conn := dial()
	defer conn.Close()
	newSet(conn, nftset.Set{Name: "ports", Type: nftset.InetService, Flags: nftset.FlagInterval, Size: 100})

	ports, err := conn.Set(fw, "ports")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ports, "has", ports.Type, ports.Flags, ports.Size)

	var tx nftset.Tx
	tx.Add(ports, nftset.Ports(80, 80), nftset.Ports(5900, 5910))
	if err := conn.Commit(&tx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(conn.Count(ports))

	_, err = conn.Set(fw, "absent")
	fmt.Println(errors.Is(err, os.ErrNotExist))
	// Output:
	// inet fw ports has inet_service interval 100
	// 2 <nil>
	// true
}

// A transaction fails as a whole. The error names the operation, the set and
// the element.
func ExampleConn_Commit() {
	conn := dial()
	defer conn.Close()
	nets := newSet(conn, nftset.Set{Name: "nets", Type: nftset.IPv4Addr, Flags: nftset.FlagInterval})

	var tx nftset.Tx
	for _, p := range []string{"10.0.0.0/8", "192.0.2.0/24", "10.1.0.0/16"} {
		tx.Add(nets, nftset.Prefix(netip.MustParsePrefix(p)))
	}
	err := conn.Commit(&tx)
	fmt.Println(err)

	var op *nftset.OpError
	if errors.As(err, &op) {
		fmt.Println(op.Element)
	}
	// Output:
	// add element 10.1.0.0/16 of inet fw nets: it overlaps an interval that is there
	// 10.1.0.0/16
}

func ExampleConn_Get() {
	conn := dial()
	defer conn.Close()
	nets := newSet(conn, nftset.Set{Name: "asked", Type: nftset.IPv6Addr, Flags: nftset.FlagInterval})
	var tx nftset.Tx
	tx.Add(nets, nftset.Prefix(netip.MustParsePrefix("2001:db8::/32")))
	if err := conn.Commit(&tx); err != nil {
		log.Fatal(err)
	}

	for _, a := range []string{"2001:db8::7", "2001:db9::7"} {
		el, err := conn.Get(nets, nftset.AddrKey(netip.MustParseAddr(a)))
		if errors.Is(err, os.ErrNotExist) {
			fmt.Println(a, "is in none")
			continue
		}
		fmt.Println(a, "is in", el, err)
	}
	// Output:
	// 2001:db8::7 is in 2001:db8::/32 <nil>
	// 2001:db9::7 is in none
}

// A monitor receives what programs change, until its deadline.
func ExampleListen() {
	conn := dial()
	defer conn.Close()
	banned := newSet(conn, nftset.Set{Name: "watched", Type: nftset.IPv4Addr, Flags: nftset.FlagTimeout})

	monitor, err := nftset.Listen(&nftset.MonitorConfig{Table: fw, Sets: []nftset.Set{*banned}})
	if err != nil {
		log.Fatal(err)
	}
	defer monitor.Close()

	var tx nftset.Tx
	tx.Add(banned, nftset.Addr(netip.MustParseAddr("192.0.2.1")).For(time.Hour))
	if err := conn.Commit(&tx); err != nil {
		log.Fatal(err)
	}

	monitor.SetReadDeadline(time.Now().Add(10 * time.Second))
	for done := false; !done; {
		events, err := monitor.Receive(nil)
		if err != nil {
			log.Fatal(err)
		}
		for _, ev := range events {
			switch ev.Kind {
			case nftset.ElementAdded:
				fmt.Println(ev.Kind, ev.Element, ev.Element.Timeout)
			case nftset.Commit:
				fmt.Println(ev.Kind, ev.PortID == conn.PortID())
				done = true
			}
		}
	}
	// Output:
	// element added 192.0.2.1 1h0m0s
	// commit true
}

func ExampleMerge() {
	var list []nftset.Interval
	for _, s := range []string{"10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "192.0.2.0/24"} {
		list = append(list, nftset.Prefix(netip.MustParsePrefix(s)).Interval)
	}
	list = append(list, nftset.Ports(80, 90).Interval, nftset.Ports(91, 91).Interval)
	fmt.Println(nftset.Merge(list))
	// Output: [10.0.0.0/23 192.0.2.0/24 80-91]
}

func ExampleFind() {
	merged := nftset.Merge([]nftset.Interval{nftset.Ports(5900, 5910).Interval, nftset.Ports(22, 23).Interval})
	fmt.Println(nftset.Find(merged, nftset.PortKey(5901)))
	_, ok := nftset.Find(merged, nftset.PortKey(24))
	fmt.Println(ok)
	// Output:
	// 5900-5910 true
	// false
}

func ExampleInterval_Prefixes() {
	iv := nftset.Interval{
		From: nftset.AddrKey(netip.MustParseAddr("192.0.2.1")),
		To:   nftset.AddrKey(netip.MustParseAddr("192.0.2.9")),
	}
	fmt.Println(iv, iv.Prefixes())
	// Output: 192.0.2.1-192.0.2.9 [192.0.2.1/32 192.0.2.2/31 192.0.2.4/30 192.0.2.8/31]
}
