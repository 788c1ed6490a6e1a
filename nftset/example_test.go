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

func Example() {
	conn, err := nftset.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	// A table with a set in it, and an element in the set: all of it, or nothing.
	table := nftset.Table{Family: nftset.FamilyINet, Name: "example"}
	banned := &nftset.Set{Table: table, Name: "banned", Type: nftset.IPv4Addr, Flags: nftset.FlagTimeout, Timeout: 8 * time.Hour, Size: 65536}
	var tx nftset.Tx
	tx.AddTable(table)
	tx.AddSet(banned)
	tx.AddElements(banned, nftset.Each(nftset.Element{
		Interval: nftset.Single(nftset.AddrKey(netip.MustParseAddr("192.0.2.1"))),
		Timeout:  24 * time.Hour,
		Comment:  "knocked on port 23",
	}))
	if err := conn.Commit(&tx); err != nil {
		log.Fatal(err)
	}

	for el, err := range conn.Elements(banned) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v, for %v: %s\n", el, el.Timeout, el.Comment)
	}
	// Output: 192.0.2.1, for 24h0m0s: knocked on port 23
}

// What fails, fails as a whole. The error names the operation, the set and the element.
func ExampleConn_Commit() {
	conn, err := nftset.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	table := nftset.Table{Family: nftset.FamilyINet, Name: "example"}
	nets := &nftset.Set{Table: table, Name: "nets", Type: nftset.IPv4Addr, Flags: nftset.FlagInterval}
	element := func(prefix string) nftset.Element {
		return nftset.Element{Interval: nftset.FromPrefix(netip.MustParsePrefix(prefix))}
	}

	var tx nftset.Tx
	tx.AddTable(table)
	tx.AddSet(nets)
	tx.AddElements(nets, nftset.Each(element("10.0.0.0/8"), element("192.0.2.0/24"), element("10.1.0.0/16")))
	err = conn.Commit(&tx)
	fmt.Println(err)

	var op *nftset.OpError
	if errors.As(err, &op) {
		fmt.Println(op.Element)
	}
	// Output:
	// add element 10.1.0.0/16 of inet example nets: it overlaps an interval that is there
	// 10.1.0.0/16
}

func ExampleConn_Get() {
	conn, err := nftset.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	table := nftset.Table{Family: nftset.FamilyINet, Name: "example"}
	nets := &nftset.Set{Table: table, Name: "asked", Type: nftset.IPv6Addr, Flags: nftset.FlagInterval}
	var tx nftset.Tx
	tx.AddTable(table)
	tx.AddSet(nets)
	tx.AddElements(nets, nftset.Each(nftset.Element{Interval: nftset.FromPrefix(netip.MustParsePrefix("2001:db8::/32"))}))
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

func ExampleMerge() {
	var list []nftset.Interval
	for _, s := range []string{"10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "192.0.2.0/24"} {
		list = append(list, nftset.FromPrefix(netip.MustParsePrefix(s)))
	}
	list = append(list, nftset.FromPorts(80, 90), nftset.FromPorts(91, 91))
	fmt.Println(nftset.Merge(list))
	// Output: [10.0.0.0/23 192.0.2.0/24 80-91]
}

func ExampleFind() {
	merged := nftset.Merge([]nftset.Interval{nftset.FromPorts(5900, 5910), nftset.FromPorts(22, 23)})
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
