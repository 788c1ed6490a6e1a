package notice

import (
	"strings"
	"testing"
	"time"
)

func TestNew(t *testing.T) {
	t.Parallel()
	tests := []struct {
		config Config
		want   string // of the error
	}{
		{Config{}, ""},
		{Config{Ntfy: "https://ntfy.example/topic?icon=x", TokenFile: "/nonexistent", Command: []string{"/nonexistent", ""}, Window: time.Nanosecond}, ""},
		{Config{Ntfy: "ntfy.example/secret"}, "send notices to ntfy: not the http or https URL of a topic"},
		{Config{Ntfy: "ftp://ntfy.example/secret"}, "send notices to ntfy: not the http or https URL of a topic"},
		{Config{Ntfy: "http:///secret"}, "send notices to ntfy: not the http or https URL of a topic"},
		{Config{Ntfy: "http://ntfy.example/secret%"}, "send notices to ntfy: not the http or https URL of a topic"},
		{Config{Command: []string{"true"}}, `send notices by "true": not an absolute path and its arguments`},
		{Config{Command: []string{"/bin/true", "\x00"}}, `send notices by "/bin/true": not an absolute path and its arguments`},
		{Config{Window: -1}, "send notices once in -1ns: want no negative time"},
	}
	for _, tt := range tests {
		_, err := New(tt.config)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tt.want || strings.Contains(got, "secret") {
			t.Errorf("%+v: got %q, want %q", tt.config, got, tt.want)
		}
	}
}

// Where notices go nowhere, nothing is kept and nothing runs.
func TestNowhere(t *testing.T) {
	s, _, end := run(t, Config{})
	event := banned(host(1), 23)
	if n := testing.AllocsPerRun(100, func() { s.Tell(event) }); n > 0 {
		t.Errorf("to tell takes %v allocations", n)
	}
	if got := s.Stats(); got != (Stats{}) {
		t.Errorf("%+v", got)
	}
	end()
}

// Before it runs and after it has ended, a Sender keeps what it is told, within
// bounds.
func TestNotRunning(t *testing.T) {
	t.Parallel()
	s, err := New(Config{Command: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	s.Tell(banned(host(1), 23))
	s.Tell()
	s.Tell(banned(host(2), 23), banned(host(3), 23))
	if got := s.Stats(); got != (Stats{Command: ChannelStats{Waiting: 3}}) {
		t.Errorf("%+v", got)
	}
}

// BenchmarkTell is what an event costs whoever tells of it.
func BenchmarkTell(b *testing.B) {
	s, err := New(Config{Command: []string{"/bin/true"}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Tell(banned(host(i), 23))
	}
}
