package main

import (
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab/manual"
)

var update = flag.Bool("update", false, "write the manual page anew")

// TestManualIsCurrent compares the manual page with what the program, its
// configuration and its metrics say.
func TestManualIsCurrent(t *testing.T) {
	t.Parallel()
	const path = "../../packaging/fleet/man/portmon-hub.8"
	root := (&cli{ui: newUI(io.Discard, io.Discard)}).root()
	for _, cmd := range root.Commands() {
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" || cmd.Args == nil {
			t.Errorf("%s: no short help, no long help, no example, or arguments that are not checked", cmd.CommandPath())
		}
	}
	synopsis, commands := manual.Commands(root)
	var metrics strings.Builder
	served := helpLine.FindAllStringSubmatch(servedMetrics(t), -1)
	for _, m := range served {
		metrics.WriteString(manual.Item(m[1], "", m[2]))
	}
	want := `.TH PORTMON-HUB 8 "" "portmon" "System Administration"
.ad l
.nr HY 0
.nh
.SH NAME
portmon\-hub \- ` + manual.Roff(root.Short, "") + "\n.SH SYNOPSIS\n.nf\n" + synopsis + "\n.fi\n.SH DESCRIPTION\n" + manual.Roff(root.Long, ".PP") +
		"\n.SH COMMANDS\n" + commands + ".SH OPTIONS\nThese apply to all commands.\n" + manual.FlagItems(root.PersistentFlags()) +
		manual.Item("-h, --help", "", "Explain the command and exit.") + manual.Item("--version", "", "Print the version and exit.") +
		".SH EXIT STATUS\n" + manual.Item("0", "", "Done.") + manual.Item("1", "", "Something failed; standard error says what.") +
		manual.Item("2", "", "Wrong usage, or a fault in the configuration.") +
		".SH CONFIGURATION\n" + manual.Keys(fmt.Sprintf(defaultConfig, `["tls://hub.example.net:4222"]`)) +
		".SH FILES\nAll are in the folder that \\-\\-dir names, and for their owner alone.\n" +
		manual.Item(configFile, "", "The configuration.") + manual.Item(seedFile, "", "The key of the hub.") +
		manual.Item(caFile+", "+caKeyFile, "", "The certificate that hosts know the hub by, and its key.") +
		manual.Item(tokenFile, "", "The token for release and revoke on the page.") +
		manual.Item(storeDir, "", "What the hub knows: hosts, sightings and bans.") +
		".SH METRICS\nportmon\\-hub run serves these at /metrics of the address that page names.\n" + metrics.String() +
		".SH SEE ALSO\n.BR portmon (8)\n"
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != want {
		t.Errorf("%s is out of date: go test -C cmd/portmon-hub . -run TestManualIsCurrent -update", path)
	}
	text := manual.Rendered(t, page)
	for _, w := range []string{"portmon-hub invite NAME", "--for TIME", "--first", "--url URL", "quota = 1000", "portmon_hub_bans", "page.token"} {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in\n%s", w, text)
		}
	}
	if len(served) < 9 {
		t.Errorf("metrics are %q", served)
	}
}

// TestDashboardAsksForWhatThereIs looks for the metrics of a hub that the
// dashboard, the alerts and the manual name, with their labels.
func TestDashboardAsksForWhatThereIs(t *testing.T) {
	t.Parallel()
	body := servedMetrics(t)
	name := regexp.MustCompile(`\bportmon_hub_[a-z_]*[a-z]\b`)
	label := regexp.MustCompile(`(?:by \(|` + name.String() + `\{)([a-z]+)`)
	shown := make(map[string]bool)
	for _, file := range []string{"grafana.json", "alerts.yml", "fleet.md"} {
		text, err := os.ReadFile("../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			for _, n := range name.FindAllString(line, -1) {
				shown[n] = shown[n] || file == "grafana.json"
				if !strings.Contains(body, "# HELP "+n+" ") {
					t.Errorf("%s: there is no metric %s", file, n)
				}
				for _, l := range label.FindAllStringSubmatch(line, -1) {
					if !regexp.MustCompile(`(?m)^` + n + `\{` + l[1] + `="`).MatchString(body) {
						t.Errorf("%s: %s has no label %s", file, n, l[1])
					}
				}
			}
		}
	}
	for _, m := range helpLine.FindAllStringSubmatch(body, -1) {
		if !shown[m[1]] && m[1] != "portmon_hub_build_info" {
			t.Errorf("the dashboard does not show %s", m[1])
		}
	}
}

var helpLine = regexp.MustCompile(`(?m)^# HELP (portmon_hub_\w+) (.*)$`)

// servedMetrics returns what a hub serves.
func servedMetrics(t *testing.T) string {
	t.Helper()
	h := exampleHub(3)
	h.counts["counted"] = 1
	_, body, _ := get(t, h.pages(""), httptest.NewRequest("GET", "http://127.0.0.1/metrics", nil))
	return body
}
