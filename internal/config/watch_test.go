package config

import (
	"strings"
	"testing"
)

func TestWatchFaults(t *testing.T) {
	const state = `the absolute path of a file, such as "/var/lib/portmon/state.jsonl"`
	const metrics = `an address and a port, such as "127.0.0.1:9713", or "" for none`
	const ntfy = `an http or https URL with a topic and without a password, such as "https://ntfy.sh/my-topic", or "" for none`
	tests := []struct{ text, want string }{
		{`state = ""`, `2:1: watch.state: "": want ` + state},
		{`state = "state.jsonl"`, `2:1: watch.state: "state.jsonl": want ` + state},
		{`state = "/var/lib/portmon/"`, `2:1: watch.state: "/var/lib/portmon/": want ` + state},
		{`state = "/var/lib/portmon/."`, `2:1: watch.state: "/var/lib/portmon/.": want ` + state},
		{`state = "/var/lib/portmon/.."`, `2:1: watch.state: "/var/lib/portmon/..": want ` + state},
		{`state = "/"`, `2:1: watch.state: "/": want ` + state},
		{`state = "/a\u0000b"`, `2:1: watch.state: "/a\x00b": want ` + state},
		{`state = 5`, `2:1: watch.state: 5: want ` + state},

		{`metrics = "9713"`, `2:1: watch.metrics: "9713": want ` + metrics},
		{`metrics = "127.0.0.1"`, `2:1: watch.metrics: "127.0.0.1": want ` + metrics},
		{`metrics = ":9713"`, `2:1: watch.metrics: ":9713": want ` + metrics},
		{`metrics = "127.0.0.1:0"`, `2:1: watch.metrics: "127.0.0.1:0": want ` + metrics},
		{`metrics = "127.0.0.1:65536"`, `2:1: watch.metrics: "127.0.0.1:65536": want ` + metrics},
		{`metrics = "127.0.0.1:http"`, `2:1: watch.metrics: "127.0.0.1:http": want ` + metrics},
		{`metrics = "::1:9713"`, `2:1: watch.metrics: "::1:9713": want ` + metrics},
		{`metrics = "example.org:9713"`, `2:1: watch.metrics: "example.org:9713": want ` + metrics},
		{`metrics = "http://127.0.0.1:9713"`, `2:1: watch.metrics: want ` + metrics},
		{`metrics = 9713`, `2:1: watch.metrics: 9713: want ` + metrics},

		{`ntfy = "my-topic"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "ntfy.sh/my-topic"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "ftp://ntfy.sh/my-topic"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "https:///my-topic"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "https://:443/my-topic"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "https://ntfy.sh/my-topic#x"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "https://ntfy.sh:x/my-topic"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "https://ntfy.sh"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "https://ntfy.sh/"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = "https://ntfy.sh/my-topic/"`, `2:1: watch.ntfy: want ` + ntfy},
		{`ntfy = false`, `2:1: watch.ntfy: want ` + ntfy},

		{`ntfy_token_file = "token"`, `2:1: watch.ntfy_token_file: want the absolute path of a file, or "" for none`},

		{`command = "/bin/logger"`, `2:1: watch.command: want a list in brackets`},
		{`command = ["logger"]`, `2:1: watch.command: want the absolute path of a program first: there is no shell and no PATH`},
		{`command = [""]`, `2:1: watch.command: want the absolute path of a program first: there is no shell and no PATH`},
		{`command = ["/bin/logger", 5]`, `2:1: watch.command: want a string without NUL`},
		{`command = ["/bin/logger", "a\u0000"]`, `2:1: watch.command: want a string without NUL`},
	}
	for _, tt := range tests {
		// Whatever else is said of a token file, it is not that ntfy is off.
		wantFaults(t, "[watch]\n"+tt.text, tt.want)
	}
}

// A password in a URL does not get into a message, whatever else is wrong with
// the URL.
func TestWatchKeepsPasswords(t *testing.T) {
	for _, url := range []string{
		"https://user:secret@ntfy.sh/my-topic",
		"https://user:secret@ntfy.sh",
		"https://user:secret@ntfy.sh:x/my-topic",
		"ftp://user:secret@ntfy.sh/my-topic",
		"https://user:sec/ret@ntfy.sh/my-topic",
		"https://user:secret@",
	} {
		_, err := parsed("p.toml", []byte("[watch]\nntfy = \""+url+"\""), noFiles)
		if err == nil || strings.Contains(err.Error(), "sec") || !strings.Contains(err.Error(), "watch.ntfy") {
			t.Errorf("%s: the error is %v", url, err)
		}
	}
	wantFaults(t, "[watch]\nntfy = \"https://user:secret@ntfy.sh/my-topic\"",
		`2:1: watch.ntfy: want an http or https URL with a topic and without a password, such as "https://ntfy.sh/my-topic", or "" for none`)
}

func TestWatchMetrics(t *testing.T) {
	const want = ": not a loopback address: anybody who can reach it can read the metrics"
	for address, warns := range map[string]bool{
		"127.0.0.1:9713":          false,
		"127.8.8.8:1":             false,
		"localhost:65535":         false,
		"[::1]:9713":              false,
		"[::ffff:127.0.0.1]:9713": false,
		"0.0.0.0:9713":            true,
		"[::]:9713":               true,
		"192.0.2.1:9713":          true,
		"[fe80::1%eth0]:9713":     true,
	} {
		text := "[watch]\nmetrics = \"" + address + "\""
		warning := ""
		if warns {
			warning = `2:1: watch.metrics` + want
		}
		wantWarnings(t, text, warning)
		c, err := parsed("p.toml", []byte(text), noFiles)
		if err != nil || c.Watch.Metrics != address {
			t.Errorf("%s: metrics are at %q, error %v", address, c.Watch.Metrics, err)
		}
	}
}

func TestWatchToken(t *testing.T) {
	const token = "[watch]\nntfy_token_file = \"/etc/portmon/token\"\n"
	wantWarnings(t, token, `2:1: watch.ntfy_token_file: not used, as ntfy is off`)
	wantWarnings(t, token+`ntfy = "http://ntfy.example/topic"`, `3:1: watch.ntfy: the access token is sent unencrypted: want https`)
	wantWarnings(t, token+`ntfy = "https://ntfy.example/topic"`, "")
	wantWarnings(t, `watch.ntfy = "http://ntfy.example/topic"`, "")
	wantWarnings(t, `watch.ntfy = "https://example.org/ntfy/topic"`, "")
}
