package config

import "testing"

func TestSuggest(t *testing.T) {
	known := []string{"whitelist", "trap.tcp", "trap.size", "ban.bantime", "ban.size", "trap", "ban"}
	tests := []struct{ key, want string }{
		{"ban.bantimes", "want bantime or size"},
		{"trap.tpc", "want tcp or size"},
		{"ban.BanTime", "did you mean ban.bantime?"},
		{"bantime", "did you mean ban.bantime?"},
		{"trap.bantime", "did you mean ban.bantime?"},
		{"ban.whitelist", "did you mean whitelist?"},
		{"ban.SIZE", "did you mean ban.size?"},
		{"trap.SIZE", "did you mean trap.size?"},
		{"colour", "want whitelist, trap or ban"},
		{"Trap", "did you mean trap?"},
	}
	for _, tt := range tests {
		table, name := split(tt.key)
		if got := suggest(table, name, known); got != tt.want {
			t.Errorf("suggest(%q) = %q: want %q", tt.key, got, tt.want)
		}
	}
}
