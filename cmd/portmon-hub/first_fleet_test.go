package main

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// varying are what differs each time in what the manual shows.
var varying = []struct {
	what *regexp.Regexp
	by   string
}{
	{token, "TOKEN"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?`), "DATE"},
	{regexp.MustCompile(`\b59m\d*s?\b`), "1h"},
	{regexp.MustCompile(`\b\d+s\b`), "0s"},
	{regexp.MustCompile(`  +`), "  "},
	{regexp.MustCompile(`(?m) +$`), ""},
}

func steady(s string) string {
	for _, v := range varying {
		s = v.what.ReplaceAllString(s, v.by)
	}
	return strings.TrimSpace(s)
}

// TestFirstFleet types what docs/fleet.md shows of a first fleet, on a hub and
// hosts of its own, and gets the answers that are shown.
func TestFirstFleet(t *testing.T) {
	text, err := os.ReadFile("../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## A first fleet of three\n")
	section, _, _ = strings.Cut(section, "\n## ")
	i := newInternet(t)
	hosts := make(map[string]*watched)
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		hosts[name] = i.newHost(name)
	}
	tokens := make(map[string]string)
	typed := 0
	prompt := regexp.MustCompile(`(?m)^([a-z0-9-]+)[#$] (.*)\n((?:.+\n)*?)(?:^[a-z0-9-]+[#$] |` + "^```)")
	for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?^```)").FindAllStringSubmatch(section, -1) {
		for rest := block[1]; ; {
			m := prompt.FindStringSubmatchIndex(rest)
			if m == nil {
				break
			}
			where, command, want := rest[m[2]:m[3]], rest[m[4]:m[5]], rest[m[6]:m[7]]
			rest = rest[m[7]:]
			typed++
			for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
				got, once := i.types(hosts, tokens, where, command)
				got = strings.ReplaceAll(strings.ReplaceAll(got, i.dir, "/var/lib/portmon-hub"), i.url, "tls://hub.example.net:4222")
				if steady(got) == steady(want) || want == "" {
					break
				}
				if once || time.Since(begun) > patience {
					t.Fatalf("%s# %s\nanswers\n%s\nand the manual says\n%s", where, command, got, want)
				}
			}
		}
	}
	if typed < 10 {
		t.Errorf("only %d commands were typed", typed)
	}
}

var token = regexp.MustCompile(`portmon-fleet-1_\S+`)

var invitation = regexp.MustCompile(`^portmon-hub invite (\S+)( \| ssh root@\S+ portmon fleet join -)?$`)

// types runs a command of the manual, and says whether it may be done only once.
func (i *internet) types(hosts map[string]*watched, tokens map[string]string, where, command string) (out string, once bool) {
	i.t.Helper()
	words := strings.Fields(command)
	invites := invitation.FindStringSubmatch(command)
	switch {
	case words[0] == "systemctl": // it runs
		return "", true
	case words[0] == "nc":
		i.want(netip.MustParseAddr("203.0.113.7"), hosts[words[2]], 23, netnstest.NoAnswer)
		return "", true
	case where != "hub" && words[1] == "fleet" && words[2] == "join":
		return hosts[where].portmon(tokens[where], "fleet", "join", "-"), true
	case where != "hub":
		return hosts[where].portmon("", words[1:]...), false
	case words[1] == "init": // another one, as this one runs already
		var said bytes.Buffer
		dir := filepath.Join(i.t.TempDir(), "hub")
		if code := run(i.t.Context(), io.Discard, &said, append(words[1:], "--dir", dir)); code != 0 {
			i.t.Fatalf("%s: code %d: %s", command, code, &said)
		}
		return strings.ReplaceAll(said.String(), dir, i.dir), true
	case invites != nil && invites[2] != "":
		i.joins(hosts[invites[1]], invites[1])
		return "", true
	}
	cmd := exec.Command(os.Args[0], append(words[1:], "--dir", i.dir)...)
	cmd.Env = append(os.Environ(), "PORTMON_HUB_TEST=1")
	var said []byte
	var err error
	i.host.Do(func() { said, err = cmd.CombinedOutput() })
	if err != nil {
		i.t.Fatalf("%s: %v: %s", command, err, said)
	}
	if invites != nil {
		tokens[invites[1]] = token.FindString(string(said))
	}
	return string(said), invites != nil
}
