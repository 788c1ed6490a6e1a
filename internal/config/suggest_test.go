package config

import "testing"

func TestSuggestKey(t *testing.T) {
	known := []string{"whitelist", "trap.tcp", "trap.maxretry", "ban.bantime", "ban.size"}
	tests := []struct{ key, want string }{
		{"ban.bantimes", "did you mean bantime?"},
		{"ban.ban_time", "did you mean bantime?"},
		{"ban.batnime", "did you mean bantime?"},
		{"ban.BanTime", "did you mean bantime?"},
		{"ban.sise", "did you mean size?"},
		{"trap.maxretries", "did you mean maxretry?"},
		{"trap.tpc", "[trap] has tcp and maxretry"},
		{"trap.tc", "did you mean tcp?"},
		{"bantime", "did you mean bantime, in [ban]?"},
		{"trap.bantimes", "did you mean bantime, in [ban]?"},
		{"ban.white_list", "did you mean whitelist, above the first [table]?"},
		{"trap.ignoreip", "did you mean whitelist, above the first [table]?"},
		{"ban.color", "[ban] has bantime and size"},
		{"color", "above the first [table] there are whitelist"},
		{"paint.color", "there is no table [paint]"},
		{"paint.size", "did you mean size, in [ban]?"},
		{"ban.bantimebantimebantimebantime", "[ban] has bantime and size"},
	}
	for _, tt := range tests {
		if got := suggestKey(tt.key, known); got != tt.want {
			t.Errorf("suggestKey(%q) = %q: want %q", tt.key, got, tt.want)
		}
	}
}

// Of two keys as near, the one in the same table is suggested.
func TestSuggestKeyPrefersTheTable(t *testing.T) {
	for _, known := range [][]string{{"a.size", "b.size"}, {"b.size", "a.size"}} {
		if got := suggestKey("b.sizes", known); got != "did you mean size?" {
			t.Errorf("from %q: %q", known, got)
		}
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"abc", "abc", 0},
		{"ABC", "abc", 0},
		{"abc", "abd", 1},
		{"abc", "ab", 1},
		{"abc", "xabc", 1},
		{"kitten", "sitting", 3},
		{"flaw", "lawn", 2},
	}
	for _, tt := range tests {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d: want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
