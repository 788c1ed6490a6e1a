// Package siem tests what collectors of logs are given, with the real programs
// where they are installed. No distribution has them, so tests without them are
// always skipped.
package siem

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := lab.Find(name)
	if err != nil {
		t.Skipf("no %s", name)
	}
	return path
}

// lines are what the watcher writes to the journal, the rule that each leads to,
// and fields that are decoded.
var lines = []struct {
	line, rule string
	fields     []string
}{
	{
		`level=INFO msg=banned address=203.0.113.7 cause=trap tier=1 port=tcp/23 offences=1 until=2026-01-18T19:04:26Z`, "109701",
		[]string{"action: 'banned'", "srcip: '203.0.113.7'", "portmon.cause: 'trap'", "portmon.tier: '1'", "proto: 'tcp'", "dstport: '23'"},
	},
	{
		`level=INFO msg=escalated address=2001:db8:1::/64 cause=scan tier=3 port=udp/53 country=DE asn=64500 network="x tier=9" offences=12 until=2026-02-17T11:04:26Z`, "109702",
		[]string{"action: 'escalated'", "srcip: '2001:db8:1::/64'", "portmon.tier: '3'"},
	},
	{`level=INFO msg=banned address=203.0.113.0/24 cause=subnet until=2026-02-17T11:04:26Z`, "109701", []string{"srcip: '203.0.113.0/24'"}},
	{
		`level=INFO msg="would be escalated" address=203.0.113.7 cause=trap tier=2 port=tcp/23 offences=2`, "109704",
		[]string{"action: 'would be escalated'", "portmon.tier: '2'"},
	},
	{
		`level=INFO msg="banned by hand" address=203.0.113.7 cause=hand until=forever reason="level=WARN msg=\"table gone\""`, "109703",
		[]string{"action: 'banned by hand'", "srcip: '203.0.113.7'"},
	},
	{`level=INFO msg="would be banned by hand" address=203.0.113.7 cause=hand`, "109704", []string{"srcip: '203.0.113.7'"}},
	{`level=INFO msg=lifted address=203.0.113.7 cause=trap tier=1`, "109705", []string{"srcip: '203.0.113.7'"}},
	{
		`level=INFO msg="unbanned by hand" address=203.0.113.7 cause=trap tier=1`, "109706",
		[]string{"action: 'unbanned by hand'", "srcip: '203.0.113.7'"},
	},
	{`level=INFO msg="unbanned by hand" bans=65003`, "109706", nil},
	{
		`level=INFO msg="allowed by hand" address=2001:db8::7 cause=hand until=2026-02-17T11:04:26Z reason=audit`, "109707",
		[]string{"action: 'allowed by hand'", "srcip: '2001:db8::7'"},
	},
	{`level=INFO msg="disallowed by hand" address=203.0.113.0/24 cause=login`, "109706", []string{"srcip: '203.0.113.0/24'"}},
	{`level=WARN msg="table gone"`, "109710", nil},
	{`level=INFO msg=restored bans=240`, "109711", nil},
	{`level=WARN msg=repaired wrong="rules, set ban4"`, "109711", nil},
	{`level=WARN msg=full offences=7`, "109712", nil},
	{`level=INFO msg="held back" offences=5081`, "109713", nil},
	{`level=INFO msg=watching table="inet portmon"`, "109700", nil},
}

// TestWazuhRules has OSSEC's ossec-logtest read lines of the journal by our
// decoders and rules, whose format is Wazuh's too.
func TestWazuhRules(t *testing.T) {
	for _, name := range []string{"portmon_decoders.xml", "portmon_rules.xml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(bytes.NewReader(text)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	logtest := program(t, "ossec-logtest")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"etc/ossec.conf": `<ossec_config><rules><decoder>etc/decoders.xml</decoder><decoder>etc/portmon_decoders.xml</decoder>
			<include>base.xml</include><include>portmon_rules.xml</include></rules></ossec_config>`,
		// It wants a rule and a decoder before ours.
		"etc/decoders.xml":          `<decoder name="none"><program_name>^none$</program_name></decoder><decoder name="never"><prematch>^never$</prematch></decoder>`,
		"rules/base.xml":            `<group name="syslog,"><rule id="1" level="0" noalert="1"><category>syslog</category><description>all</description></rule></group>`,
		"etc/internal_options.conf": "analysisd.default_timeframe=360\nanalysisd.stats_maxdiff=999000\nanalysisd.stats_mindiff=1250\nanalysisd.stats_percent_diff=150\nanalysisd.fts_list_size=32\nanalysisd.fts_min_size_for_str=14\nanalysisd.log_fw=1\nanalysisd.decoder_order_size=64\n",
		"queue/fts/fts-queue":       "",
		"queue/fts/ig-queue":        "",
		"queue/fts/hostinfo":        "",
		"etc/portmon_decoders.xml":  read(t, "portmon_decoders.xml"),
		"rules/portmon_rules.xml":   read(t, "portmon_rules.xml"),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil { // it gives up root, if there is a user for that
			t.Fatal(err)
		}
	}
	var in strings.Builder
	for _, l := range lines {
		in.WriteString("Nov 28 12:00:00 web1 portmon[123]: " + l.line + "\n")
	}
	cmd := exec.Command(logtest, "-D", dir, "-c", filepath.Join(dir, "etc/ossec.conf"))
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.CombinedOutput()
	answers := strings.Split(string(out), "**Phase 1")
	if len(answers) != len(lines)+1 {
		t.Fatalf("%d answers to %d lines, error %v:\n%s", len(answers)-1, len(lines), err, out)
	}
	for i, l := range lines {
		for _, want := range append(l.fields, "decoder: 'portmon'", "Rule id: '"+l.rule+"'") {
			if !strings.Contains(answers[i+1], " "+want+"\n") {
				t.Errorf("%s: want %s, got%s", l.line, want, answers[i+1])
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFluentBit has Fluent Bit read an event of docs/events.md.
func TestFluentBit(t *testing.T) {
	fluentBit := program(t, "fluent-bit")
	_, pretty, _ := strings.Cut(read(t, "../../docs/events.md"), "```json\n{\n  \"@timestamp\"")
	pretty, _, _ = strings.Cut(pretty, "```\n")
	var line bytes.Buffer
	if err := json.Compact(&line, []byte("{\n  \"@timestamp\""+pretty)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(fluentBit, "-q", "-c", "fluent-bit.conf")
	cmd.Stdin = strings.NewReader(line.String() + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Date   float64
		Event  struct{ Action string }
		Source struct{ IP string }
	}
	_, record, _ := strings.Cut("\n"+string(out), "\n{")
	if err := json.Unmarshal([]byte("{"+record), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got.Date != 1795863866.12 || got.Event.Action != "escalated" || got.Source.IP != "203.0.113.7" {
		t.Errorf("got %+v of %s", got, out)
	}
}
