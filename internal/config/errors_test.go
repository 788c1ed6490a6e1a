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
		{Error{File: "f", Line: 3, Column: 7, Err: err}, "f:3:7: want better"},
		{Error{File: "f", Err: err}, "f: want better"},
		{Error{File: "f", Err: errors.New("a\x1b[31m\nb")}, "f: a\uFFFD[31m b"},
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

func TestErrorsAreLimited(t *testing.T) {
	_, err := parsed("p.toml", []byte("whitelist = [\n"+strings.Repeat("5,\n", 23)+"]"), noFiles)
	var faults Errors
	errors.As(err, &faults)
	if len(faults) != 21 || faults[20].Error() != "p.toml:1:1: and more: only 20 are shown" {
		t.Errorf("%d faults, the last %v: want 20, and one which says that there are more", len(faults), faults[len(faults)-1])
	}
}

func TestHint(t *testing.T) {
	for text, want := range map[string]bool{
		"[trap]\nfindtime = 8h":                true,
		"whitelist = [10.0.0.0/8]":             true,
		"whitelist = [ fe80::/10 ]":            true,
		"whitelist = [2001:db8::1]":            true,
		"tcp = [100-200, 5]":                   true,
		"tcp = [5, 100-200]":                   true,
		"state = /var/lib/state # here":        true,
		"metrics = 127.0.0.1:9713":             true,
		"metrics = localhost:9713":             true,
		"ntfy = https://user:secret@ntfy.sh/t": true,
		"tcp = [1 2]":                          false,
		"tcp: 3":                               false,
		"tcp":                                  false,
		"[trap":                                false,
		"a = ssh":                              false,
		"a = ":                                 false,
		"foo = 1":                              false, // no fault of syntax
	} {
		_, err := parsed("p.toml", []byte(text), noFiles)
		var fault *Error
		if ok := errors.As(err, &fault); !ok {
			t.Errorf("%s: the error is %v", text, err)
		} else if got := strings.Contains(err.Error(), "are quotes missing?"); got != want || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error is %v", text, err)
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
