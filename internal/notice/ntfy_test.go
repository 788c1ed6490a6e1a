package notice

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/watch"
)

// newTopic returns a topic name that is used once.
func newTopic() string { return "portmon-" + rand.Text() }

// topicAt returns the URL of a topic.
func topicAt(addr, topic string) string { return "http://" + addr + "/" + topic }

// What is published reaches who subscribes: title, message, priority and tags,
// and a title that is not ASCII.
func TestPublish(t *testing.T) {
	gone := watch.News{Kind: watch.TableGone}
	tests := []struct {
		name, host string
		query      string
		events     []watch.News
		want       message
	}{
		{
			"one", "web1", "", []watch.News{banned(prefix("203.0.113.7/32"), 23)},
			message{
				Title: "web1: 203.0.113.7 banned", Message: "203.0.113.7 banned for 8h: tcp/23", Priority: 2,
				Tags: []string{"no_entry", "portmon"},
			},
		},
		{
			"a summary", "web1", "", []watch.News{gone, banned(prefix("203.0.113.7/32"), 23)},
			message{
				Title:   "web1: table gone, 1 banned",
				Message: "203.0.113.7 banned for 8h: tcp/23\n" + goneText, Priority: 4, Tags: []string{"rotating_light", "portmon"},
			},
		},
		{
			"not ASCII, and long", strings.Repeat("bücher-", 9), "", []watch.News{gone},
			message{
				Title: strings.Repeat("bücher-", 9) + ": table gone", Message: goneText, Priority: 4,
				Tags: []string{"rotating_light", "portmon"},
			},
		},
		{
			"what looks like headers", "web1\r\nX-Priority: 5\r\n\r\n", "",
			[]watch.News{{Kind: watch.ByHand, Source: host(1), Comment: "x\r\nX-Tags: skull\r\n\r\nbody"}},
			message{
				Title:   "web1  X-Priority: 5: 198.51.0.1 banned by hand",
				Message: "198.51.0.1 banned by hand: x  X-Tags: skull    body", Priority: 3,
				Tags: []string{"no_entry_sign", "portmon"},
			},
		},
		{
			"parameters in the URL", "web1", "?title=x&priority=5&tags=skull", []watch.News{gone},
			message{Title: "web1: table gone", Message: goneText, Priority: 4, Tags: []string{"rotating_light", "portmon"}},
		},
	}
	eachServer(t, false, func(t *testing.T, d *ntfyd, addr string) {
		d.serve(addr)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				topic := newTopic()
				url := topicAt(addr, topic)
				s, reports, end := run(t, setup{ntfy: url + tt.query, host: tt.host})
				tell(s, tt.events...)
				awaitSent(t, s, "ntfy", reports)
				end()
				want := tt.want
				want.Event, want.Topic = "message", topic
				if d := diff([]message{want}, poll(t, url, "")); d != "" {
					t.Errorf("(-want +got)\n%s", d)
				}
				if got := s.Stats()["ntfy"]; got != (Stats{Sent: 1}) || len(reports) > 0 {
					t.Errorf("%+v, %d reports", got, len(reports))
				}
			})
		}
	})
}

// A thousand events in a moment are one notice, sent without waiting for the
// end.
func TestThousand(t *testing.T) {
	eachServer(t, false, func(t *testing.T, d *ntfyd, addr string) {
		d.serve(addr)
		topic := topicAt(addr, newTopic())
		s, _, end := run(t, setup{ntfy: topic, host: "web1", window: time.Hour})
		var bans []watch.News
		for i := range 1000 {
			bans = append(bans, banned(host(i), 23))
		}
		tell(s, bans...) // at once: a notice may be on its way before a second call
		lab.Await(t, "a notice was sent", func() bool { return s.Stats()["ntfy"].Sent == 1 })
		end()
		got := poll(t, topic, "")
		if len(got) != 1 || got[0].Title != "web1: 1000 banned" || !strings.HasSuffix(got[0].Message, "\nand 995 more") {
			t.Errorf("got %+v", got)
		}
	})
}

// A notice as long as can be is a message all the same, and no attachment,
// which a server may refuse.
func TestLongest(t *testing.T) {
	eachServer(t, false, func(t *testing.T, d *ntfyd, addr string) {
		d.serve(addr)
		topic := topicAt(addr, newTopic())
		s, reports, end := run(t, setup{ntfy: topic, host: strings.Repeat("ü", 1000)})
		var news []watch.News
		for kind := range watch.Kinds {
			for i := range 2 * maxEvents {
				news = append(news, watch.News{
					Kind: watch.Kinds - 1 - kind, Count: 1, Comment: strings.Repeat("ü", 1000),
					Source: prefix(fmt.Sprintf("2001:db8:ffff:ffff:ffff:ffff:ffff:%x/128", 0xfff0+i)),
					What:   fmt.Sprint(strings.Repeat("ü", 1000), i),
				})
			}
		}
		tell(s, news...)
		awaitSent(t, s, "ntfy", reports)
		end()
		got := poll(t, topic, "")
		if len(got) != 1 || !strings.HasSuffix(got[0].Message, "…") || s.Stats()["ntfy"].Sent != 1 {
			t.Errorf("got %+v, %+v", got, s.Stats())
		}
	})
}

// A server takes the right token, and refuses a wrong one and one that it took
// before. A new token in the file counts from the next notice on.
func TestToken(t *testing.T) {
	eachServer(t, true, func(t *testing.T, d *ntfyd, addr string) {
		d.serve(addr)
		const wrong = "tk_wrong456789abcdefghijklmnopqrs"
		first, second := d.grant(), d.grant()
		topic := topicAt(addr, newTopic())
		file := filepath.Join(t.TempDir(), "token")
		write := func(text string) {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o400); err != nil {
				t.Fatal(err)
			}
		}
		s, reports, end := run(t, setup{ntfy: topic, tokenFile: file, window: time.Millisecond})
		refused := func(what string, n int) {
			t.Helper()
			tell(s, banned(host(n), 23))
			err := <-reports
			want := "post notice to ntfy at http://" + addr + ": status 401 Unauthorized: "
			if !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "(attempt 1, given up: 1 event not sent)") {
				t.Errorf("with %s token: got %v\nwant %s", what, err, want)
			}
		}
		taken := func(n int, sent uint64) {
			t.Helper()
			tell(s, banned(host(n), 23))
			lab.Await(t, "a notice was sent", func() bool { return s.Stats()["ntfy"].Sent == sent })
		}
		write(wrong + "\n")
		refused("a wrong", 1)
		write(first + "\r\n")
		taken(2, 1)
		d.revoke(first)
		refused("an old", 3)
		write(second)
		taken(4, 2)
		end()
		var titles []string
		for _, m := range poll(t, topic, d.reader) {
			titles = append(titles, m.Title)
		}
		if d := diff([]string{"198.51.0.2 banned", "198.51.0.4 banned"}, titles); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
		if got, want := s.Stats()["ntfy"], (Stats{Sent: 2, Failed: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// Where only tokens may publish, a notice without one is refused.
func TestNoToken(t *testing.T) {
	eachServer(t, true, func(t *testing.T, d *ntfyd, addr string) {
		d.serve(addr)
		topic := topicAt(addr, newTopic())
		s, reports, end := run(t, setup{ntfy: topic})
		tell(s, banned(host(1), 23))
		if err := <-reports; !strings.Contains(err.Error(), ": status 403 Forbidden: ") {
			t.Errorf("got %v", err)
		}
		end()
		if got := poll(t, topic, d.reader); got != nil {
			t.Errorf("got %+v", got)
		}
	})
}

// A server that is not there yet gets the notice when it is. The token file is
// not there yet either.
func TestLateServer(t *testing.T) {
	eachServer(t, true, func(t *testing.T, d *ntfyd, addr string) {
		topic := topicAt(addr, newTopic())
		file := filepath.Join(t.TempDir(), "token")
		s, reports, end := run(t, setup{ntfy: topic, tokenFile: file})
		tell(s, banned(host(1), 23))
		if err := <-reports; !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
			t.Errorf("without a token: %v", err)
		}
		d.serve(addr)
		if err := os.WriteFile(file, []byte(d.grant()), 0o400); err != nil {
			t.Fatal(err)
		}
		lab.Await(t, "the notice was sent", func() bool { return s.Stats()["ntfy"].Sent == 1 })
		end()
		if got := poll(t, topic, d.reader); len(got) != 1 {
			t.Errorf("got %+v", got)
		}
		if got := s.Stats()["ntfy"]; got != (Stats{Sent: 1}) {
			t.Errorf("%+v", got)
		}
	})
}

// Nobody listens: that may pass, and the topic is not in the error. At the end
// it is tried at once.
func TestRefusedConnection(t *testing.T) {
	eachServer(t, false, func(t *testing.T, d *ntfyd, addr string) {
		topic := topicAt(addr, newTopic())
		s, reports, end := run(t, setup{ntfy: topic})
		tell(s, banned(host(1), 23))
		err := <-reports
		if !strings.Contains(err.Error(), "connection refused (will be tried again)") || strings.Contains(err.Error(), "portmon-") {
			t.Errorf("without a server: %v", err)
		}
		d.serve(addr)
		end()
		if got := poll(t, topic, ""); len(got) != 1 || len(reports) > 0 {
			t.Errorf("got %+v, %d more reports", got, len(reports))
		}
	})
}
