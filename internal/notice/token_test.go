package notice

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tests := []struct {
		name, text string
		token      string
		want       string // of the error
	}{
		{"plain", "tk_abc", "tk_abc", ""},
		{"newline", "tk_abc\n", "tk_abc", ""},
		{"windows", " tk_abc\r\n\r\n", "tk_abc", ""},
		{"longest", strings.Repeat("x", maxToken), strings.Repeat("x", maxToken), ""},
		{"long", strings.Repeat("x", maxToken+1), "", "larger than 4 KiB"},
		{"empty", "", "", "not a token: want one word of ASCII characters"},
		{"blank", " \n", "", "not a token: want one word of ASCII characters"},
		{"two", "secret1\nsecret2\n", "", "not a token: want one word of ASCII characters"},
		{"injection", "secret\r\nX-Priority: 5", "", "not a token: want one word of ASCII characters"},
		{"binary", "secret\x00", "", "not a token: want one word of ASCII characters"},
		{"not ASCII", "sécret", "", "not a token: want one word of ASCII characters"},
	}
	for _, tt := range tests {
		path := filepath.Join(dir, tt.name)
		if err := os.WriteFile(path, []byte(tt.text), 0o400); err != nil {
			t.Fatal(err)
		}
		token, err := readToken(path)
		got := ""
		if err != nil {
			got = strings.TrimPrefix(strings.TrimPrefix(err.Error(), "read token: read "+path+": "), "read token "+path+": ")
		}
		if token != tt.token || got != tt.want {
			t.Errorf("%s: got %.10q, %s", tt.name, token, got)
		}
	}
	if _, err := readToken(dir); err == nil || err.Error() != "read token: read "+dir+": not a regular file" {
		t.Errorf("a directory: %v", err)
	}
	pipe := fifo(t)
	if _, err := readToken(pipe); err == nil || err.Error() != "read token: read "+pipe+": not a regular file" {
		t.Errorf("a pipe without a writer: %v", err)
	}
	missing := filepath.Join(dir, "missing")
	if _, err := readToken(missing); err == nil || err.Error() != "read token: open "+missing+": no such file or directory" {
		t.Errorf("a missing file: %v", err)
	}
}
