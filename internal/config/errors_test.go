package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestErrorStrings(t *testing.T) {
	err := errors.New("want better")
	tests := []struct {
		fault Error
		want  string
	}{
		{Error{File: "f", Line: 3, Column: 7, Key: "a.b", Value: "5", Err: err}, "f:3:7: a.b: 5: want better"},
		{Error{File: "f", Line: 3, Column: 7, Value: "5", Err: err}, "f:3:7: 5: want better"},
		{Error{File: "f", Line: 3, Column: 7, Key: "a.b", Err: err}, "f:3:7: a.b: want better"},
		{Error{File: "f", Line: 3, Err: err}, "f:3: want better"},
		{Error{File: "f", Err: err}, "f: want better"},
	}
	for _, tt := range tests {
		if got := tt.fault.Error(); got != tt.want {
			t.Errorf("Error() = %q: want %q", got, tt.want)
		}
	}
}

func TestErrorsUnwrap(t *testing.T) {
	var err error = Errors{
		{File: "a", Err: errors.New("one")},
		{File: "b", Err: fmt.Errorf("open: %w", fs.ErrNotExist)},
	}
	if got := err.Error(); got != "a: one\nb: open: file does not exist" {
		t.Errorf("Error() = %q", got)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("an error within is not found")
	}
	var one *Error
	if ok := errors.As(err, &one); !ok || one.File != "a" {
		t.Errorf("the first *Error is %v", one)
	}
}

func TestTidyLimitsTheConfiguration(t *testing.T) {
	_, err := Parse("p.toml", []byte("whitelist = [\n"+strings.Repeat("5,\n", 103)+"]"), noFiles)
	var faults Errors
	errors.As(err, &faults)
	if len(faults) != 101 || faults[100].Error() != "p.toml:1: and more: only the first 100 are shown" {
		t.Errorf("%d faults, the last %v: want 100, and one which says that there are more", len(faults), faults[len(faults)-1])
	}
}

func TestHint(t *testing.T) {
	tests := []struct{ text, want string }{
		{"[trap]\nfindtime = 8h", `did you mean "8h", in quotes?`},
		{"whitelist = [10.0.0.0/8]", `did you mean "10.0.0.0/8", in quotes?`},
		{"whitelist = [ fe80::/10 ]", `did you mean "fe80::/10", in quotes?`},
		{"whitelist = [2001:db8::1]", `did you mean "2001:db8::1", in quotes?`},
		{"tcp = [100-200, 5]", `did you mean "100-200", in quotes?`},
		{"state = /var/lib/state # here", `did you mean "/var/lib/state", in quotes?`},
		{"metrics = 127.0.0.1:9713", `did you mean "127.0.0.1:9713", in quotes?`},
		{"metrics = localhost:9713", `did you mean "localhost:9713", in quotes?`},
		{"ntfy = https://ntfy.sh/t", `did you mean "https://ntfy.sh/t", in quotes?`},
		{"ntfy = https://user:secret@ntfy.sh/t", ""}, // no password in a message
		{"a = 8h", `did you mean "8h", in quotes?`},
		{"tcp = [1 2]", ""},
		{"tcp: 3", ""},
		{"tcp", ""},
		{"[trap", ""},
		{"a = \"8h", `did you mean "8h", in quotes?`},
		{"a = ssh", ""},
		{"a = ", ""},
		{"foo = 1", ""}, // no fault of syntax
	}
	for _, tt := range tests {
		_, err := Parse("p.toml", []byte(tt.text), noFiles)
		var fault *Error
		ok := errors.As(err, &fault)
		if !ok {
			t.Errorf("%s: the error is %v", tt.text, err)
		} else if got := fault.Hint; got != tt.want {
			t.Errorf("%s: Hint = %q: want %q", tt.text, got, tt.want)
		}
	}
}

func TestQuote(t *testing.T) {
	long := strings.Repeat("x", 59)
	tests := []struct{ text, want string }{
		{"", `""`},
		{"a b", `"a b"`},
		{"\x1b[31m\n", `"\x1b[31m\n"`},
		{long + "y", `"` + long + `y"`},
		{long + "yz", `"` + long + `y…"`},
		{long + "éz", `"` + long + `é…"`}, // not half of a letter
		{strings.Repeat("\x80", 100), `"` + strings.Repeat(`\x80`, 60) + `…"`},
	}
	for _, tt := range tests {
		if got := quote(tt.text); got != tt.want {
			t.Errorf("quote(%q) = %s: want %s", tt.text, got, tt.want)
		}
	}
}
