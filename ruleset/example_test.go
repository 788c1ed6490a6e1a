package ruleset_test

import (
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// A table is made, a source is banned for an hour, and freed again.
func Example() {
	conn, err := nftset.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	spec := ruleset.Default()
	spec.Table = "example"
	result, err := ruleset.Apply(conn, spec)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("created:", result.Created)

	table, err := ruleset.Open(conn, spec.Table)
	if err != nil {
		log.Fatal(err)
	}
	source := netip.MustParseAddr("192.0.2.7")
	prefix, err := table.Source(source)
	if err != nil {
		log.Fatal(err)
	}
	refused, err := table.Put([]ruleset.Record{{
		Source: prefix, Banned: true, Timeout: time.Hour, Remaining: time.Hour, Comment: "too many logins",
	}})
	if err := errors.Join(append(refused, err)...); err != nil {
		log.Fatal(err)
	}

	standing, err := table.Lookup(source)
	if err != nil {
		log.Fatal(err)
	}
	for _, ban := range standing.Bans {
		fmt.Println(ban, "by", ban.Cause, "for", ban.Remaining.Round(time.Hour), ban.Comment)
	}

	lifted, _, err := table.Unban(prefix)
	fmt.Println("lifted:", len(lifted), err)
	// Output:
	// created: true
	// 192.0.2.7 by hand for 1h0m0s too many logins
	// lifted: 1 <nil>
}

// Prepare returns what Apply would change. Its Write writes the table in nft
// syntax.
func ExamplePrepare() {
	conn, err := nftset.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	spec := ruleset.Default()
	spec.Table = "prepared"
	if _, err := ruleset.Apply(conn, spec); err != nil {
		log.Fatal(err)
	}

	spec.Whitelist = append(spec.Whitelist, netip.MustParsePrefix("203.0.113.0/24"))
	result, err := ruleset.Prepare(conn, spec)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Summary())
	// Output: [whitelist4 rules]
}

// The packet path reports each ban to a netlink log group.
func ExampleParseLogPrefix() {
	cause, step, ok := ruleset.ParseLogPrefix("portmon trap 2")
	fmt.Println(cause, step, ok)
	// Output: trap 2 true
}
