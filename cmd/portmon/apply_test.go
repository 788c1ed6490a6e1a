package main

import (
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/text"
)

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 bans", 1: "1 ban", 2: "2 bans"} {
		if got := text.Plural(n, "ban"); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

// TestForeignNamesAreEscaped has a chain of another program in the table whose
// name would colour a terminal, and be a command to nft if it reads what
// --dry-run writes.
func TestForeignNamesAreEscaped(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	portmon(t, site.Host, "apply")
	conn, err := nftables.New(nftables.WithNetNSFd(site.Host.FD()))
	if err != nil {
		t.Fatal(err)
	}
	conn.AddChain(&nftables.Chain{
		Name: "x\x1b[31m\nflush ruleset", Table: &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet},
	})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status"}, {"apply", "--check"}, {"apply", "--dry-run"}, {"apply"}} {
		e, stdout, stderr := hostEnv(site.Host)
		site.Host.Do(func() { run(e, append(args, "--config", testConfig(t))) })
		output := stdout.String() + stderr.String()
		if !strings.Contains(output, "chain x\ufffd[31m flush ruleset") || strings.Contains(output, "\x1b") {
			t.Errorf("portmon %s: %q", args, output[:min(len(output), 200)])
		}
		if args[len(args)-1] == "--dry-run" {
			lab.NFT(t, site.Host, stdout.String(), "--check", "--file", "-")
		}
	}
}

// TestStuckSetsAreReported has a table that an old kernel would have made of
// another size: it has all of the configuration but the sizes of sets.
func TestStuckSetsAreReported(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	table := portmon(t, site.Host, "apply", "--dry-run")
	lab.NFT(t, site.Host, strings.ReplaceAll(table, "size 65536", "size 7"), "--file", "-")
	for _, tt := range []struct{ args, stdout string }{
		{"apply", "rules\n"}, // nft loads sources in another way
		{"apply", "nothing to change\n"}, {"apply --check", "in force, as configured\n"}, {"status", "in force, as configured\n"},
		{"status --json", `"ban4 keeps size 7, not 65536"`},
	} {
		e, stdout, stderr := hostEnv(site.Host)
		var code int
		site.Host.Do(func() { code = run(e, append(strings.Fields(tt.args), "--config", testConfig(t))) })
		if code != exitDone || !strings.Contains(stdout.String(), tt.stdout) {
			t.Errorf("portmon %s: exit code %d, %s", tt.args, code, stdout)
		}
		if strings.HasSuffix(tt.args, "--json") {
			continue
		}
		for _, want := range []string{"warning: this kernel does not change live sets: ", "ban6 keeps size 7, not 65536", "hint: for a new table: stop the watcher"} {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("portmon %s: no %q in %s", tt.args, want, stderr)
			}
		}
	}
}
