package config

import "testing"

func TestSuggest(t *testing.T) {
	known := []string{"whitelist", "trap.tcp", "trap.maxretry", "ban.bantime", "ban.size", "trap", "ban"}
	tests := []struct{ key, want string }{
		{"ban.bantimes", "did you mean ban.bantime?"},
		{"ban.ban_time", "did you mean ban.bantime?"},
		{"ban.batnime", "did you mean ban.bantime?"},
		{"ban.BanTime", "did you mean ban.bantime?"},
		{"ban.sise", "did you mean ban.size?"},
		{"trap.tpc", "did you mean trap.tcp?"},
		{"trap.tc", "did you mean trap.tcp?"},
		{"bantime", "did you mean ban.bantime?"},
		{"trap.bantimes", "did you mean ban.bantime?"},
		{"ban.white_list", "did you mean whitelist?"},
		{"ban.color", "want bantime or size"},
		{"color", "want whitelist, trap or ban"},
		{"traps", "did you mean trap?"},
		{"paint.size", "did you mean ban.size?"},
		{"ban.bantimebantimebantimebantime", "want bantime or size"},
	}
	for _, tt := range tests {
		if got := suggest(tt.key, known); got != tt.want {
			t.Errorf("suggest(%q) = %q: want %q", tt.key, got, tt.want)
		}
	}
}

// Of two keys as near, the one in the same table is suggested.
func TestSuggestPrefersTheTable(t *testing.T) {
	for _, known := range [][]string{{"a.size", "b.size"}, {"b.size", "a.size"}} {
		if got := suggest("b.sizes", known); got != "did you mean b.size?" {
			t.Errorf("from %q: %q", known, got)
		}
	}
}
