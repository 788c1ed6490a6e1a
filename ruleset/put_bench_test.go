package ruleset

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
)

// BenchmarkPut bans many sources at once by hand, in a table without bans,
// beside nft, which is given the same as text.
func BenchmarkPut(b *testing.B) {
	for _, kind := range []struct {
		name string
		n    int
		set  string
		of   func(i int) netip.Prefix
	}{
		{"addresses", 65536, "ban4", func(i int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		}},
		{"prefixes", 100_000, "net4", func(i int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{20 + byte(i>>15), byte(i >> 7), byte(i << 1), 0}), 24)
		}},
	} {
		records := make([]Record, kind.n)
		var script strings.Builder
		fmt.Fprintf(&script, "add element inet portmon %s {", kind.set)
		for i := range records {
			p := kind.of(i)
			records[i] = Record{Source: p, Banned: true, Timeout: time.Hour, Remaining: time.Hour, Comment: "by hand", Cause: CauseHand}
			fmt.Fprintf(&script, " %s timeout 1h comment \"by hand\",", nftset.Prefix(p).Interval)
		}
		script.WriteString(" }\n")
		file := filepath.Join(b.TempDir(), "bans.nft")
		if err := os.WriteFile(file, []byte(script.String()), 0o644); err != nil {
			b.Fatal(err)
		}
		l := newBareLab(b)
		fresh := func(b *testing.B) {
			b.Helper()
			b.StopTimer()
			if _, err := Remove(l.conn, "portmon"); err != nil {
				b.Fatal(err)
			}
			l.apply(Default())
			b.StartTimer()
		}
		b.Run(kind.name+"/Put", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fresh(b)
				if refused, err := l.open().Put(records); err != nil || refused != nil {
					b.Fatal(err, refused)
				}
			}
		})
		b.Run(kind.name+"/nft -f", func(b *testing.B) {
			for b.Loop() {
				fresh(b)
				l.NFT("", "-f", file)
			}
		})
	}
}
