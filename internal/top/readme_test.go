package top

import (
	"flag"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/portmon/portmon/internal/events"
)

var update = flag.Bool("update", false, "write the sample in README.md anew")

// TestReadmeIsCurrent has the sample in README.md be what the program shows.
func TestReadmeIsCurrent(t *testing.T) {
	const name = "../../README.md"
	d := newDesk(t, Options{Host: "web1", Unicode: true})
	d.Update(tea.WindowSizeMsg{Width: 80, Height: 22})
	begin := time.Date(2026, 11, 27, 13, 8, 30, 0, time.UTC)
	sources := "192.0.2.44 198.51.100.9 192.0.2.109 198.51.100.92 198.51.100.75 198.51.100.41 " +
		"198.51.100.24 198.51.100.7 198.51.100.246 198.51.100.229 198.51.100.212 198.51.100.197"
	ports := []uint16{445, 23, 3389, 23, 6379, 5900, 23, 8545, 2323, 1433, 23, 8005}
	dropped, bans := uint64(0), 0
	for i := range 50 {
		if i >= 5 && i < 17 {
			e := events.Event{
				Time: events.Time{Time: begin.Add(time.Duration(i) * time.Second)}, Event: "banned", Cause: "trap", Tier: 1, Protocol: "tcp", Port: ports[i-5],
				Prefix: netip.PrefixFrom(netip.MustParseAddr(strings.Fields(sources)[i-5]), 32),
			}
			if e.Port == 8005 {
				e.Cause = "scan"
			}
			d.Update(Batch{e})
			dropped++
			bans++
		}
		if i == 12 {
			d.Update(Batch{{
				Time: events.Time{Time: begin.Add(12 * time.Second)}, Event: "banned_by_hand", Prefix: netip.MustParsePrefix("203.0.113.0/24"),
				Cause: "hand", Reason: "guesses passwords",
			}})
		}
		dropped += uint64("00000112312120122011101100110111011011101101110111"[i] - '0')
		d.Update(Snapshot{Time: begin.Add(time.Duration(i) * time.Second), State: "enforcing", Good: true, Dropped: dropped, Sets: []Set{
			{"ban4", bans, 65536}, {"ban6", 0, 65536}, {"probed4", 542, 262144}, {"score4", 537, 262144}, {"tier4_1", bans, 131072}, {"scanner4", 1, 131072},
		}})
	}
	d.Update(Bans{Total: bans + 1})
	d.Update(Source("the watcher"))
	var shown strings.Builder
	for line := range strings.Lines(regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(d.draw(), "")) {
		shown.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	readme, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(readme), "```\nportmon: ")
	sample, after, ended := strings.Cut(rest, "```\n")
	if !found || !ended {
		t.Fatal("README.md has no sample of top")
	}
	if "portmon: "+sample == shown.String() {
		return
	}
	if !*update {
		t.Fatalf("the sample in README.md is not what top shows; go test ./internal/top -run TestReadmeIsCurrent -update writes it:\n%s", shown.String())
	}
	if err := os.WriteFile(name, []byte(before+"```\n"+shown.String()+"```\n"+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
