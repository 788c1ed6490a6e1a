package text

import (
	"math/rand/v2"
	"testing"
	"time"
)

const longest = 3650 * day

func TestParseDuration(t *testing.T) {
	tests := []struct {
		text string
		want time.Duration
	}{
		{"1s", time.Second},
		{"90s", 90 * time.Second},
		{"10m", 10 * time.Minute},
		{"8h", 8 * time.Hour},
		{"3d", 3 * day},
		{"1w", 7 * day},
		{"1d12h", 36 * time.Hour},
		{"1w1d1h1m1s", 8*day + time.Hour + time.Minute + time.Second},
		{"1w1s", 7*day + time.Second},
		{"36h", 36 * time.Hour},
		{"08h", 8 * time.Hour},
		{"0w8h", 8 * time.Hour},
		{"3650d", longest},
		{"315360000s", longest},
		{"90", 90 * time.Second},
		{"315360000", longest},
	}
	for _, tt := range tests {
		if got, err := ParseDuration(tt.text, time.Second, longest); got != tt.want || err != nil {
			t.Errorf("ParseDuration(%q) = %v, %v: want %v", tt.text, got, err, tt.want)
		}
	}
}

func TestParseDurationFaults(t *testing.T) {
	const want = `want a duration from 1s to 3650d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`
	const noLength = "months and years have no fixed length: " + want
	tests := []struct{ text, want string }{
		{"", want},
		{"0", want},
		{"315360001", want},
		{"99999999999999999999", want},
		{"8 h", want},
		{" 8h", want},
		{"8h ", want},
		{"1d 12h", want},
		{"-1h", want},
		{"+1h", want},
		{"1.5h", want},
		{"h", want},
		{"1hour", want},
		{"1ms", want},
		{"8H", want},
		{"8h30", want},
		{"30m8h", want}, // the longest comes first
		{"1h1h", want},
		{"٣d", want},
		{"1y", noLength},
		{"6mo", noLength},
		{"0s", want},
		{"0d0h", want},
		{"3651d", want},
		{"3650d1s", want},
		{"521w4d", want},
		{"99999999w", want},
		{"9223372036854775807s", want},
		{"9223372036854775808s", want},
		{"99999999999999999999999w", want},
		// In 64 bits these would wrap around to 1.3 seconds, and to a second
		// less than a week.
		{"18446744075s", want},
		{"1w18446744073709551615s", want},
	}
	for _, tt := range tests {
		if got, err := ParseDuration(tt.text, time.Second, longest); err == nil || err.Error() != tt.want {
			t.Errorf("ParseDuration(%q) = %v, %v: want the error %q", tt.text, got, err, tt.want)
		}
	}
}

// What Duration writes, ParseDuration reads.
func TestDurationRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		// As many short ones as long ones: a random number of random bits.
		limit := min(int64(1)<<random.IntN(30), int64(longest/time.Second))
		want := time.Duration(1+random.Int64N(limit)) * time.Second
		text := Duration(want)
		if got, err := ParseDuration(text, time.Second, longest); got != want || err != nil {
			t.Fatalf("ParseDuration(Duration(%v)) = %v, %v, by way of %q", want, got, err, text)
		}
	}
}

// A range of its own is named in the error, with examples that lie in it.
func TestParseDurationRange(t *testing.T) {
	for _, s := range []string{"0s", "0h", "1h", "60m", "59m60s", "3600s"} {
		if _, err := ParseDuration(s, 0, time.Hour); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"1h1s", "61m", "1h0m1s", "1d", "1h1h"} {
		if d, err := ParseDuration(s, 0, time.Hour); err == nil || err.Error() != `want a duration from 0s to 1h, such as 90 (seconds) or "10m"` {
			t.Errorf("%s: %v, %v", s, d, err)
		}
	}
}
