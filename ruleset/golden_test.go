package ruleset

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden pins the text of some tables.
func TestGolden(t *testing.T) {
	specs := specs()
	for name, text := range map[string]string{
		"default.nft":  Compile(Default()).String(),
		"maxretry.nft": Compile(specs["prefix6 61 and maxretry"]).String(),
		"udp.nft":      Compile(specs["UDP traps"]).String(),
		"asked.nft":    compile(specs["prefix6 128"], askedNets{true, true}).String(),
		"strict.nft":   Compile(specs["strict"]).String(),
		"knock.nft":    Compile(specs["knock"]).String(),
		"fleet.nft":    Compile(specs["fleet"]).String(),
		"observe.nft":  Compile(specs["observe"]).String(),
	} {
		path := filepath.Join("testdata", "golden", name)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal([]byte(text), want) {
			t.Errorf("%s: run the test with -update if this is wanted:\n%s", path, difference(text, string(want)))
		}
	}
}
