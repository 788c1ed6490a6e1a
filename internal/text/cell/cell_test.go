package cell

import "testing"

func TestCells(t *testing.T) {
	for _, tt := range []struct{ s, fit, pad string }{
		{"abc", "abc", "abc  |"},
		{"abcdef", "abc…", "abcdef|"},
		{"日本", "日本", "日本 |"},
		{"日本語", "日…", "日本語|"},
		{"e\u0301e", "e\u0301e", "e\u0301e   |"},
		{"\x1b[1mab\x1b[m", "\x1b[1mab\x1b[m", "\x1b[1mab\x1b[m   |"},
		{"", "", "     |"},
	} {
		if got := Fit(tt.s, 4, "…"); got != tt.fit {
			t.Errorf("Fit(%q) is %q, want %q", tt.s, got, tt.fit)
		}
		if got := Pad(tt.s, 5) + "|"; got != tt.pad {
			t.Errorf("Pad(%q) is %q, want %q", tt.s, got, tt.pad)
		}
	}
}
