package overview

import (
	"flag"
	"fmt"
	"html"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/ruleset"
)

var pictures = flag.String("pictures", "", "write the pages that README.md has pictures of to this `DIRECTORY`")

// TestPictures has a month on a made-up mail host, of which README.md has
// pictures: everybody who adds up comes to the same sums.
func TestPictures(t *testing.T) {
	r := mailHost()
	sum := func(items []Item) (n uint64) {
		for _, it := range items {
			n += it.Count
		}
		return n
	}
	for name, items := range map[string][]Item{
		"causes": r.Causes, "tiers": r.Steps, "ports": r.Ports, "countries": r.Countries, "networks": r.Networks,
	} {
		if n := sum(items); n != r.Total.Bans || n < 1000 {
			t.Errorf("%s have %d bans, the sum %d", name, n, r.Total.Bans)
		}
	}
	if first := r.Steps[0].Count; first != r.Total.New || r.Total.New+r.Total.Returning() != r.Total.Bans {
		t.Errorf("%d bans at tier 1, %d new and %d returning offenders, %d bans", first, r.Total.New, r.Total.Returning(), r.Total.Bans)
	}
	if n := sum(r.Expiring); n != uint64(r.Banned) || r.Remembered != int(r.Total.New) {
		t.Errorf("%d bans by their ends of %d, %d remembered of %d", n, r.Banned, r.Remembered, r.Total.New)
	}
	if *pictures == "" {
		return
	}
	page, err := os.Create(filepath.Join(*pictures, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	if err := r.WriteHTML(page); err != nil {
		t.Fatal(err)
	}
	colours := map[Style]string{Heading: "#fff;font-weight:bold", Drops: "#6abf69", NewOnes: "#e3b341", Returning: "#f78c7c", Warning: "#e3b341"}
	var b strings.Builder
	// What is painted is marked by characters that the page does not have.
	err = r.WriteText(&b, Terminal{Unicode: true, Paint: func(s string, as Style) string { return fmt.Sprintf("\x01%d\x02%s\x03", as, s) }})
	if err != nil {
		t.Fatal(err)
	}
	shown := html.EscapeString(b.String())
	for as, colour := range colours {
		shown = strings.ReplaceAll(shown, fmt.Sprintf("\x01%d\x02", as), `<span style="color:`+colour+`">`)
	}
	shown = strings.NewReplacer(fmt.Sprintf("\x01%d\x02", Plain), "<span>", "\x03", "</span>").Replace(shown)
	terminal := `<!doctype html><meta charset="utf-8"><body style="margin:0;background:#0f1217;color:#d0d4d9"><pre style="margin:14px 18px;` +
		`font:15px/18px 'DejaVu Sans Mono',monospace">` + shown + "</pre>"
	if err := os.WriteFile(filepath.Join(*pictures, "terminal.html"), []byte(terminal), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mailHost returns the report of a host that is scanned as many are, most of all
// in the middle of the month.
func mailHost() *Report {
	now := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	boot := book.Moment(1e18)
	random := rand.New(rand.NewPCG(2026, 12))
	places := []geo.Place{
		{Country: "US", ASN: 64496, Network: "Example Cloud Inc."}, {Country: "US", ASN: 64497, Network: "Example Scanning Ltd"},
		{Country: "CN", ASN: 64498, Network: "Example Telecom Backbone"}, {Country: "NL", ASN: 64499, Network: "Example Hosting BV"},
		{Country: "CN", ASN: 64498, Network: "Example Telecom Backbone"}, {Country: "SG", ASN: 64496, Network: "Example Cloud Inc."},
		{Country: "RU", ASN: 64500, Network: "Example Broadband"}, {Country: "IN", ASN: 64501, Network: "Example Mobile"},
		{Country: "DE", ASN: 64496, Network: "Example Cloud Inc."}, {Country: "BR", ASN: 64502, Network: "Example Net"},
		{Country: "NL", ASN: 64497, Network: "Example Scanning Ltd"}, {Country: "VN", ASN: 64503, Network: "Example Post and Telecom"},
		{Country: "FR", ASN: 64499, Network: "Example Hosting BV"}, {Country: "GB", ASN: 64497, Network: "Example Scanning Ltd"},
		{Country: "KR", ASN: 64504, Network: "Example Cable"}, {Country: "ID", ASN: 64505, Network: "Example University"},
		{Country: "UA", ASN: 64500, Network: "Example Broadband"}, {Country: "TR", ASN: 64502, Network: "Example Net"},
		{Country: "CA", ASN: 64496, Network: "Example Cloud Inc."}, {Country: "ZA", ASN: 64501, Network: "Example Mobile"},
	}
	ports := []uint16{23, 23, 23, 23, 23, 23, 23, 445, 445, 3389, 3389, 6379, 1433, 5900, 8728, 81, 5555, 2375, 2323, 27017}
	ladder := []time.Duration{10 * time.Minute, 8 * time.Hour, 30 * 24 * time.Hour}
	s := stats.New(time.UTC)
	table := stats.Table{Origin: book.Origin{Boot: "a", NetNS: 1, Table: 1}}
	var rows []book.Row
	where := make(map[netip.Prefix]geo.Place)
	var bans, dropped uint64
	fresh := true
	for at := now.Add(-30*24*time.Hour + 15*time.Hour); !at.After(now); at = at.Add(time.Hour) {
		offences := random.IntN(3) + random.IntN(2)*random.IntN(3)
		if day := at.Day(); day == 16 || day == 17 {
			offences += 2 + random.IntN(4)
		}
		for range offences {
			moment := boot.Add(at.Sub(now))
			i := len(rows)
			if i > 10 && random.IntN(4) == 0 { // it comes again, unless it is banned
				if again := int(float64(i) * random.Float64() * random.Float64()); rows[again].Until <= moment {
					i = again
				}
			}
			first := i == len(rows)
			if first {
				place := places[min(random.IntN(len(places)), random.IntN(len(places)))]
				source := netip.PrefixFrom(netip.AddrFrom4([4]byte{[]byte{192, 198, 203}[i%3], []byte{0, 51, 0}[i%3], []byte{2, 100, 113}[i%3], byte(i / 3)}), 32)
				if i >= 3*250 || random.IntN(9) == 0 {
					source = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i), 0, byte(random.IntN(4))}), 64)
				}
				where[source] = place
				rows = append(rows, book.Row{Source: source, Proto: unix.IPPROTO_TCP})
			}
			row := &rows[i]
			row.Offences, row.Step, row.Banned, row.Last = row.Offences+1, min(row.Step+1, len(ladder)), true, moment
			row.Cause, row.Port = ruleset.CauseTrap, ports[random.IntN(len(ports))]
			if random.IntN(7) == 0 {
				row.Cause, row.Port = ruleset.CauseScan, uint16(8000+random.IntN(999))
			}
			row.Timeout = ladder[row.Step-1]
			row.Until, row.StepUntil = moment.Add(row.Timeout), moment.Add(row.Timeout+30*24*time.Hour)
			bans++
			dropped += 40 + uint64(random.IntN(500))
			s.AddOffence(stats.Offence{
				At: at, Cause: row.Cause, Step: row.Step, Proto: row.Proto, Port: row.Port, First: first, Place: where[row.Source],
			})
		}
		table.Counters = map[string]ruleset.Counter{
			ruleset.CounterBanned: {Packets: bans, Bytes: 44 * bans}, ruleset.CounterDropped: {Packets: dropped, Bytes: 44 * dropped},
		}
		s.AddTable(table, fresh, at)
		fresh = false
	}
	remembered := book.New(0)
	for _, row := range rows {
		if row.Banned = row.Until > boot; !row.Banned {
			row.Until, row.Timeout = 0, 0
		}
		remembered.Put(row)
	}
	return New(Input{
		Host: "mail.example.org", Mode: ruleset.Mode(false), Days: 30, Clock: book.Clock{Boot: boot, Wall: now}, Stats: s, Rows: remembered,
		Locate:  func(p netip.Prefix) geo.Place { return where[p] },
		Suspect: func(netip.Prefix) string { return "" },
	})
}
