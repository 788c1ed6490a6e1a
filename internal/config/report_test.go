package config

import "testing"

func TestReport(t *testing.T) {
	if got := mustParse(t, "[report]\nabuseipdb_key_file = \"/a/key\"").AbuseIPDBKeyFile; got != "/a/key" {
		t.Errorf("got %q", got)
	}
	// In place of the file there may be the key.
	wantFaults(t, "[report]\nabuseipdb_key_file = \"0123456789abcdef\"",
		`2:1: report.abuseipdb_key_file: want the absolute path of a file, or "" for none`)
	wantFaults(t, "[report]\nkey = 1", `2:1: report.key: unknown key: want abuseipdb_key_file`)
}
