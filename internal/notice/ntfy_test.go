package notice

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// topicAt returns the URL of a topic that nobody else uses.
func topicAt(server string) string { return server + "/portmon-" + rand.Text() }

// What is published reaches who subscribes: title, message, priority and tags, and a title that is not ASCII.
func TestPublish(t *testing.T) {
	t.Parallel()
	server := ntfyServer(t)
	gone := Event{Kind: TableGone}
	tests := []struct {
		name, host string
		query      string
		events     []Event
		want       message
	}{
		{
			"one", "web1", "", []Event{banned(prefix("203.0.113.7/32"), 23)},
			message{Title: "web1: 203.0.113.7 banned", Message: "203.0.113.7 banned for 8h: tcp port 23", Priority: 2, Tags: []string{"no_entry", "portmon"}},
		},
		{
			"a summary", "web1", "", []Event{gone, banned(prefix("203.0.113.7/32"), 23)},
			message{
				Title:   "web1: table gone, 1 banned",
				Message: goneText + "\n1 banned: 203.0.113.7\ntrapped at tcp port 23 (1)", Priority: 4, Tags: []string{"rotating_light", "portmon"},
			},
		},
		{
			"not ASCII, and long", strings.Repeat("bücher-", 9), "", []Event{gone},
			message{Title: strings.Repeat("bücher-", 9) + ": table gone", Message: goneText, Priority: 4, Tags: []string{"rotating_light", "portmon"}},
		},
		{
			"what looks like headers", "web1\r\nX-Priority: 5\r\n\r\n", "", []Event{{Kind: ByHand, Prefix: host(1), Reason: "x\r\nX-Tags: skull\r\n\r\nbody"}},
			message{Title: "web1  X-Priority: 5: 198.51.0.1 banned by hand", Message: "198.51.0.1 banned by hand: x  X-Tags: skull    body", Priority: 3, Tags: []string{"no_entry_sign", "portmon"}},
		},
		{
			"parameters in the URL", "web1", "?title=x&priority=5&tags=skull", []Event{gone},
			message{Title: "web1: table gone", Message: goneText, Priority: 4, Tags: []string{"rotating_light", "portmon"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			topic := topicAt(server)
			s, reports, end := run(t, Config{Ntfy: topic + tt.query, Host: tt.host})
			s.Tell(tt.events...)
			end()
			tt.want.Event, tt.want.Topic = "message", topic[len(server)+1:]
			if d := diff([]message{tt.want}, poll(t, topic, "")); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if got := s.Stats(); got != (Stats{Ntfy: ChannelStats{Sent: 1}}) || len(reports) > 0 {
				t.Errorf("%+v, %d reports", got, len(reports))
			}
		})
	}
}

// A thousand events in a moment are one notice, sent without waiting for the end.
func TestThousand(t *testing.T) {
	t.Parallel()
	topic := topicAt(ntfyServer(t))
	s, _, end := run(t, Config{Ntfy: topic, Host: "web1", Window: time.Hour})
	for i := range 1000 {
		s.Tell(banned(host(i), 23))
	}
	eventually(t, "a notice was sent", func() bool { return s.Stats().Ntfy.Sent == 1 })
	end()
	got := poll(t, topic, "")
	if len(got) != 1 || got[0].Title != "web1: 1000 banned" || !strings.HasSuffix(got[0].Message, "\ntrapped at tcp port 23 (1000)") || got[0].Attachment != nil {
		t.Errorf("got %+v", got)
	}
}

// A server takes the right token, and refuses a wrong one. A new token in the file counts from the next notice on.
func TestToken(t *testing.T) {
	t.Parallel()
	const good, bad = "tk_0123456789abcdefghijklmnopqrs", "tk_wrong456789abcdefghijklmnopqrs"
	server := httptest.NewServer(&standIn{token: good})
	defer server.Close()
	topic := topicAt(server.URL)
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	write(bad + "\n")
	s, reports, end := run(t, Config{Ntfy: topic, TokenFile: file, Window: time.Millisecond})
	s.Tell(banned(host(1), 23))
	err := <-reports
	var status *StatusError
	if !errors.As(err, &status) || status.Code != http.StatusUnauthorized || status.Said != "unauthorized" {
		t.Errorf("with a wrong token: %v", err)
	}
	want := "post notice to ntfy at " + server.URL + ": status 401 Unauthorized: unauthorized (try 1, given up: 1 event untold)"
	if err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	write(good + "\r\n")
	s.Tell(banned(host(2), 23))
	eventually(t, "a notice was sent", func() bool { return s.Stats().Ntfy.Sent == 1 })
	end()
	if got := poll(t, topic, good); len(got) != 1 || got[0].Title != "198.51.0.2 banned" {
		t.Errorf("got %+v", got)
	}
	if got, want := s.Stats().Ntfy, (ChannelStats{Sent: 1, Failed: 1, Dropped: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A server that is not there yet gets the notice when it is. The token file is not there yet either.
func TestLateServer(t *testing.T) {
	t.Parallel()
	const token = "tk_0123456789abcdefghijklmnopqrs"
	addr, listen := lateListener(t)
	topic := topicAt("http://" + addr)
	file := filepath.Join(t.TempDir(), "token")
	s, reports, end := run(t, Config{Ntfy: topic, TokenFile: file})
	s.Tell(banned(host(1), 23))
	if err := <-reports; !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("without a token: %v", err)
	}
	server := &httptest.Server{Listener: listen(), Config: &http.Server{Handler: &standIn{token: token}}}
	server.Start()
	defer server.Close()
	if err := os.WriteFile(file, []byte(token), 0o400); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the notice was sent", func() bool { return s.Stats().Ntfy.Sent == 1 })
	end()
	if got := poll(t, topic, token); len(got) != 1 {
		t.Errorf("got %+v", got)
	}
	if got := s.Stats().Ntfy; got != (ChannelStats{Sent: 1}) {
		t.Errorf("%+v", got)
	}
}

// Nobody listens: that may pass, and the topic is not in the error.
func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	addr, listen := lateListener(t)
	topic := topicAt("http://" + addr)
	s, reports, end := run(t, Config{Ntfy: topic})
	s.Tell(banned(host(1), 23))
	err := <-reports
	if !strings.Contains(err.Error(), "connection refused (will be tried again)") || strings.Contains(err.Error(), "portmon-") {
		t.Errorf("nobody listens: %v", err)
	}
	handler := new(standIn)
	server := &httptest.Server{Listener: listen(), Config: &http.Server{Handler: handler}}
	server.Start()
	defer server.Close()
	end() // tries at once
	if got := poll(t, topic, ""); len(got) != 1 || len(reports) > 0 {
		t.Errorf("got %+v, %d more reports", got, len(reports))
	}
}
