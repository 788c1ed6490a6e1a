package events

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/geo"
)

var now = time.Date(2026, 11, 28, 11, 4, 26, 120e6, time.UTC)

// samples are the events in docs/events.md.
var samples = []Event{
	{
		Version: Version, Seq: 41, Time: Time{now}, Event: "escalated", Mode: "enforce", Prefix: netip.MustParsePrefix("203.0.113.7/32"),
		Place: geo.Place{Country: "DE", ASN: 64500, Network: "Example Ltd"}, Cause: "trap", Tier: 2, Protocol: "tcp", Port: 23, Offences: 2, Until: now.Add(8 * time.Hour).Truncate(time.Second),
	},
	{
		Version: Version, Seq: 42, Time: Time{now.Add(time.Second)}, Event: "would_be_banned", Mode: "observe",
		Prefix: netip.MustParsePrefix("2001:db8:5:6::/64"), Cause: "scan", Tier: 1, Protocol: "tcp", Port: 8081, Offences: 1,
		Until: now.Add(10 * time.Minute).Truncate(time.Second),
	},
	{
		Version: Version, Seq: 43, Time: Time{now.Add(2 * time.Second)}, Event: "banned_by_hand", Mode: "enforce",
		Prefix: netip.MustParsePrefix("2001:db8::77/128"), Cause: "hand", Forever: true, Reason: `a|b=c\d`,
	},
	{Version: Version, Seq: 44, Time: Time{now.Add(3 * time.Second)}, Event: "repaired", Mode: "enforce", Wrong: "rules, set ban4"},
	{Version: Version, Seq: 144, Time: Time{now.Add(4 * time.Second)}, Event: Lost, Count: 100},
}

func format(t *testing.T, name string) Format {
	t.Helper()
	f, err := NewFormat(name, "1.0.0", "web1")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestDocuments shows that docs/events.md shows what is written.
func TestDocuments(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "events.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"json", "cef"} {
		for i := range samples {
			if line := string(format(t, name)(&samples[i])); !strings.Contains(string(text), "\n"+line) {
				t.Errorf("docs/events.md lacks this line of %s:\n%s", name, line)
			}
		}
	}
	_, pretty, _ := strings.Cut(string(text), "```json\n{\n  \"@timestamp\"")
	pretty, _, _ = strings.Cut(pretty, "```\n")
	var want, got any
	if err := json.Unmarshal([]byte("{\n  \"@timestamp\""+pretty), &want); err != nil {
		t.Fatal("docs/events.md: the example of ECS: ", err)
	}
	line := format(t, "ecs")(&samples[0])
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if a, b := jsonLine(got), jsonLine(want); string(a) != string(b) {
		t.Errorf("ECS: got\n%s, docs/events.md has\n%s", line, b)
	}
}

// TestEveryKind shows that every kind has a severity and a name, and a line in
// docs/events.md.
func TestEveryKind(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "events.md"))
	if err != nil {
		t.Fatal(err)
	}
	for kind, k := range kinds {
		if k.severity < 1 || k.severity > 10 || k.name == "" || k.ecsType == "" {
			t.Errorf("%s: %+v", kind, k)
		}
		if !strings.Contains(string(text), "\n| `"+kind+"`") {
			t.Errorf("docs/events.md lacks %s", kind)
		}
	}
}

// TestForeignText shows that nothing in an event ends its line or a field of it.
func TestForeignText(t *testing.T) {
	e := samples[2]
	e.Reason = "x\n=|\\\r\"\x1b[31m src=192.0.2.1"
	for _, name := range []string{"json", "ecs", "cef"} {
		line := string(format(t, name)(&e))
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") || strings.Contains(line, "\r") {
			t.Errorf("%s is not one line: %q", name, line)
		}
	}
	line := string(format(t, "cef")(&e))
	if !strings.Contains(line, `reason=x\n\=|\\\r"`) || !strings.Contains(line, ` src\=192.0.2.1`) {
		t.Errorf("CEF: %q", line)
	}
	f, err := NewFormat("cef", `1|2\3`, "web=1")
	if err != nil {
		t.Fatal(err)
	}
	if line := string(f(&e)); !strings.HasPrefix(line, `CEF:0|portmon|portmon|1\|2\\3|banned_by_hand|source banned by hand|3|rt=`) ||
		!strings.Contains(line, ` dvchost=web\=1 `) {
		t.Errorf("CEF: %q", line)
	}
}

// FuzzCEF shows that a reader of CEF gets back the reason that was written.
func FuzzCEF(f *testing.F) {
	for _, s := range []string{"", "plain", `a|b=c\d`, "x\n\r\\n", `\`, "a src=1", "é=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, reason string) {
		if strings.TrimSpace(reason) != reason || reason == "0" {
			t.Skip("not compared: blanks at the ends, and 0, which is left out as a number would be")
		}
		e := Event{Version: 1, Seq: 1, Time: Time{now}, Event: "banned_by_hand", Reason: reason}
		line := string(cefLine(&e, "1", ""))
		if strings.Count(line, "\n") != 1 {
			t.Fatalf("not one line: %q", line)
		}
		_, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " reason=")
		var back strings.Builder
		for i := 0; i < len(value); i++ {
			switch c := value[i]; {
			case c == '=':
				t.Fatalf("an equal sign that is not escaped: %q", line)
			case c != '\\':
				back.WriteByte(c)
			default:
				i++
				back.WriteByte(map[byte]byte{'\\': '\\', '=': '=', 'n': '\n', 'r': '\r'}[value[i]])
			}
		}
		if back.String() != reason {
			t.Errorf("got %q, want %q: %s", back.String(), reason, line)
		}
	})
}
