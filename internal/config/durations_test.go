package config

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// The range is one that a Spec takes.
func TestDurationRange(t *testing.T) {
	if minDuration < ruleset.MinBanTime || maxDuration > ruleset.MaxBanTime {
		t.Errorf("durations from %v to %v, but a Spec takes %v to %v", minDuration, maxDuration, ruleset.MinBanTime, ruleset.MaxBanTime)
	}
}

func TestDurationInSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1": time.Second, "+600": 10 * time.Minute, "86_400": day, "0x3c": time.Minute, "315360000": maxDuration,
	} {
		if got := mustParse(t, "[ban]\nforget = "+text).Spec.Forget; got != want {
			t.Errorf("forget = %s gives %v: want %v", text, got, want)
		}
	}
	const want = `want a duration from 1s to 3650d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`
	for _, text := range []string{"0", "-1", "315360001", "9223372036854775807"} {
		wantFaults(t, "[ban]\nforget = "+text, "2:1: ban.forget: "+text+": "+want)
	}
	wantFaults(t, "[ban]\nforget = 9223372036854775808", "2:10: toml: decimal number is too large to fit in a 64-bit signed integer")
	wantFaults(t, "[ban]\nforget = 1.5", "2:1: ban.forget: 1.5: "+want)
}

// Some keys have ranges of their own, the same for both spellings.
func TestDurationRanges(t *testing.T) {
	const week = `want a duration from 1s to 7d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`
	const hour = `want a duration from 0s to 1h, such as 90 (seconds) or "10m"`
	keys := []struct {
		table, key, want string
		good, bad        []string
		get              func(ruleset.Spec) time.Duration
	}{
		{"trap", "grace", hour, []string{"0s", "1s", "90s", "1h"}, []string{"1h1s", "61m", "1d"},
			func(s ruleset.Spec) time.Duration { return s.Grace }},
		{"trap", "findtime", week, []string{"1s", "1w", "7d"}, []string{"0s", "7d1s", "2w"},
			func(s ruleset.Spec) time.Duration { return s.FindTime }},
		{"scan", "findtime", week, []string{"1s", "1w", "7d"}, []string{"0s", "7d1s", "2w"},
			func(s ruleset.Spec) time.Duration { return s.Scan.FindTime }},
	}
	parse := text.ParseDuration
	for _, k := range keys {
		line := "[" + k.table + "]\n" + k.key + " = "
		place := fmt.Sprintf("2:1: %s.%s: ", k.table, k.key)
		for _, text := range k.good {
			want, err := parse(text, 0, maxDuration)
			if err != nil {
				t.Fatal(err)
			}
			seconds := strconv.Itoa(int(want / time.Second))
			for _, value := range []string{strconv.Quote(text), seconds, strconv.Quote(seconds)} {
				if got := k.get(mustParse(t, line+value).Spec); got != want {
					t.Errorf("%s%s gives %v: want %v", line, value, got, want)
				}
			}
		}
		for _, text := range k.bad {
			d, err := parse(text, 0, maxDuration)
			if err != nil {
				t.Fatal(err)
			}
			for _, value := range []string{strconv.Quote(text), strconv.Itoa(int(d / time.Second))} {
				wantFaults(t, line+value, place+value+": "+k.want)
			}
		}
		for _, value := range []string{`""`, `"x"`, `"-1s"`, `-1`, `9223372036854775807`} {
			wantFaults(t, line+value, place+value+": "+k.want)
		}
		wantFaults(t, line+`1.5`, place+`1.5: `+k.want)
	}
}

func TestLadderFaults(t *testing.T) {
	tests := []struct{ value, want string }{
		{`[]`, `2:1: ban.bantime: 0 steps: there must be 1 to 8`},
		{`[1, 2, 3, 4, 5, 6, 7, 8, 9]`, `2:1: ban.bantime: 9 steps: there must be 1 to 8`},
		{`["8h", "8h"]`, `2:1: ban.bantime: 8h after 8h: each step must be longer than the one before`},
		{`["1d", "24h"]`, `2:1: ban.bantime: 1d after 1d: each step must be longer than the one before`},
		{`["3d", "8h", "1w"]`, `2:1: ban.bantime: 8h after 3d: each step must be longer than the one before`},
		{`["3d", "0s", "1d"]`, `2:1: ban.bantime: "0s": want a duration from 1s to 3650d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"
2:1: ban.bantime: 1d after 3d: each step must be longer than the one before`},
		{`"8 "`, `2:1: ban.bantime: "8 ": want a duration from 1s to 3650d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`},
		{`true`, `2:1: ban.bantime: true: want a duration from 1s to 3650d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`},
	}
	for _, tt := range tests {
		wantFaults(t, "[ban]\nbantime = "+tt.value, tt.want)
	}
}

func TestLadderOfMaxSteps(t *testing.T) {
	tiers := strings.TrimSuffix(strings.Repeat("X, ", ruleset.MaxSteps), ", ")
	for i := range ruleset.MaxSteps {
		tiers = strings.Replace(tiers, "X", text.Duration(time.Duration(1+i)*time.Hour), 1)
	}
	tiers = `["` + strings.ReplaceAll(tiers, ", ", `", "`) + `"]`
	if got := len(mustParse(t, "[ban]\nbantime = "+tiers).Spec.BanTime); got != ruleset.MaxSteps {
		t.Errorf("%d tiers from %s", got, tiers)
	}
}
