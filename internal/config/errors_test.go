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
		place Place
		want  string
	}{
		{Place{File: "f", Line: 3, Column: 7, Key: "a.b", Value: "5"}, "f:3:7: a.b: 5: want better"},
		{Place{File: "f", Line: 3, Column: 7, Value: "5"}, "f:3:7: 5: want better"},
		{Place{File: "f", Line: 3, Column: 7, Key: "a.b"}, "f:3:7: a.b: want better"},
		{Place{File: "f", Line: 3}, "f:3: want better"},
		{Place{File: "f"}, "f: want better"},
	}
	for _, tt := range tests {
		if got := (&Error{Place: tt.place, Err: err}).Error(); got != tt.want {
			t.Errorf("Error() = %q: want %q", got, tt.want)
		}
		if got := (Warning{tt.place, "want better"}).String(); got != tt.want {
			t.Errorf("Warning.String() = %q: want %q", got, tt.want)
		}
		if got := fmt.Sprint(Warning{tt.place, "want better"}); got != tt.want {
			t.Errorf("a printed Warning is %q: want %q", got, tt.want)
		}
	}
}

func TestErrorsUnwrap(t *testing.T) {
	var err error = Errors{
		{Place: Place{File: "a"}, Err: errors.New("one")},
		{Place: Place{File: "b"}, Err: fmt.Errorf("open: %w", fs.ErrNotExist)},
	}
	if got := err.Error(); got != "a: one\nb: open: file does not exist" {
		t.Errorf("Error() = %q", got)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("an error within is not found")
	}
	if one, ok := errors.AsType[*Error](err); !ok || one.File != "a" {
		t.Errorf("the first *Error is %v", one)
	}
}

func TestTidyLimitsTheConfiguration(t *testing.T) {
	_, err := Parse("p.toml", []byte("whitelist = [\n"+strings.Repeat("5,\n", 103)+"]"), noFiles)
	faults, _ := errors.AsType[Errors](err)
	if len(faults) != 101 || faults[99].Line != 101 || faults[100].Error() != "p.toml:102: and 3 more" {
		t.Errorf("%d faults, the last %v: want 100, and one which counts 3 from line 102", len(faults), faults[len(faults)-1])
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
		fault, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%s: the error is %v", tt.text, err)
		} else if got := fault.Hint(); got != tt.want {
			t.Errorf("%s: Hint() = %q: want %q", tt.text, got, tt.want)
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
		{long + "yz", `"` + long + `y"…`},
		{long + "é", `"` + long + `"…`}, // not half of a letter
		{strings.Repeat("\x80", 100), `""…`},
	}
	for _, tt := range tests {
		if got := quote(tt.text); got != tt.want {
			t.Errorf("quote(%q) = %s: want %s", tt.text, got, tt.want)
		}
	}
}
