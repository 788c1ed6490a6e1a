package notice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/watch"
)

// delivery is a notice that a channel sent, and when.
type delivery struct {
	at    time.Duration // since the beginning
	title string
	count int
}

// fakeChannel is a channel that records what it sends.
type fakeChannel struct {
	*channel
	start   time.Time
	got     []delivery
	reports []string
	answer  func(ctx context.Context, try int) error // what becomes of a try, the first being 1
}

// testChannel runs a test of a channel in a bubble, where time passes when
// everything waits.
func testChannel(t *testing.T, test func(r *fakeChannel, ctx context.Context, end func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &fakeChannel{start: time.Now(), answer: func(context.Context, int) error { return nil }}
		r.channel = &channel{
			gathering: time.Second, window: time.Minute, wake: make(chan struct{}, 1),
			report: func(err error) { r.reports = append(r.reports, err.Error()) },
			send: func(ctx context.Context, n *notice) error {
				r.got = append(r.got, delivery{time.Since(r.start), n.title, n.count})
				return r.answer(ctx, len(r.got))
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.run(ctx)
		}()
		end := func() {
			cancel()
			<-done
		}
		defer end()
		test(r, ctx, end)
	})
}

func (r *fakeChannel) tell(news ...watch.News) { r.add(news, steps, clock) }

func (r *fakeChannel) wantStats(t *testing.T, want Stats) {
	t.Helper()
	synctest.Wait()
	if got := (Stats{r.sent.Load(), r.failed.Load()}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func (r *fakeChannel) want(t *testing.T, want ...delivery) {
	t.Helper()
	synctest.Wait()
	if got := fmt.Sprint(r.got); got != fmt.Sprint(want) {
		t.Errorf("sent %v\nwant %v", got, want)
	}
}

// The first event is sent after a second, with what happened meanwhile. Then
// there is one notice a minute. After a quiet time there is one after a second
// again.
func TestWindow(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, _ func()) {
		r.tell(banned(host(1), 23))
		time.Sleep(500 * time.Millisecond)
		r.tell(banned(host(2), 23))
		time.Sleep(time.Second)
		for i := range 1000 {
			r.tell(banned(host(i), 23))
		}
		time.Sleep(10 * time.Minute)
		r.tell(banned(host(3), 23))
		time.Sleep(59 * time.Second)
		r.tell(banned(host(4), 23))
		time.Sleep(10 * time.Minute)
		r.want(t,
			delivery{time.Second, "2 banned", 2},
			delivery{61 * time.Second, "1000 banned", 1000},
			delivery{10*time.Minute + 2500*time.Millisecond, "198.51.0.3 banned", 1},
			delivery{11*time.Minute + 2500*time.Millisecond, "198.51.0.4 banned", 1},
		)
		r.wantStats(t, Stats{Sent: 4})
	})
}

// A stream of events that never ends is a notice a minute.
func TestStream(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, _ func()) {
		for i := range 600 {
			r.tell(banned(host(i), 23))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		for i, d := range r.got {
			if want := time.Second + time.Duration(i)*time.Minute; d.at != want {
				t.Errorf("notice %d after %v, want %v", i, d.at, want)
			}
		}
		if len(r.got) != 10 {
			t.Errorf("%d notices in 10 minutes", len(r.got))
		}
	})
}

// A temporary failure is tried again, at growing intervals, while other events
// wait. It is reported twice.
func TestRetry(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, _ func()) {
		r.answer = func(_ context.Context, try int) error {
			if try <= 6 {
				return &temporaryError{error: errors.New("no network")}
			}
			return nil
		}
		r.tell(banned(host(1), 23), banned(host(2), 23))
		time.Sleep(20 * time.Second)
		r.tell(banned(host(3), 23))
		time.Sleep(time.Hour)
		r.want(t,
			delivery{1 * time.Second, "2 banned", 2},
			delivery{3 * time.Second, "2 banned", 2},
			delivery{13 * time.Second, "2 banned", 2},
			delivery{43 * time.Second, "2 banned", 2},
			delivery{103 * time.Second, "2 banned", 2},
			delivery{223 * time.Second, "2 banned", 2},
			delivery{224 * time.Second, "198.51.0.3 banned", 1},
		)
		r.wantStats(t, Stats{Sent: 1, Failed: 1})
		if d := diff([]string{"no network (will be tried again)", "no network (attempt 6, given up: 2 events not sent)"}, r.reports); d != "" {
			t.Errorf("(-want +reported)\n%s", d)
		}
	})
}

// A final failure is not tried again.
func TestFinal(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, _ func()) {
		r.answer = func(context.Context, int) error { return errors.New("status 401 Unauthorized") }
		r.tell(banned(host(1), 23))
		time.Sleep(time.Hour)
		r.want(t, delivery{time.Second, "198.51.0.1 banned", 1})
		r.wantStats(t, Stats{Failed: 1})
		if d := diff([]string{"status 401 Unauthorized (attempt 1, given up: 1 event not sent)"}, r.reports); d != "" {
			t.Errorf("(-want +reported)\n%s", d)
		}
	})
}

// The pause is what the server asks for if that is longer than ours, within a
// limit.
func TestDelay(t *testing.T) {
	for after, want := range map[time.Duration]time.Duration{
		0: 2 * time.Second, time.Second: 2 * time.Second, time.Minute: time.Minute, time.Hour: 15 * time.Minute,
	} {
		testChannel(t, func(r *fakeChannel, _ context.Context, _ func()) {
			r.answer = func(_ context.Context, try int) error {
				if try == 1 {
					return &temporaryError{errors.New("busy"), after}
				}
				return nil
			}
			r.tell(banned(host(1), 23))
			time.Sleep(time.Hour)
			r.want(t, delivery{time.Second, "198.51.0.1 banned", 1}, delivery{time.Second + want, "198.51.0.1 banned", 1})
		})
	}
}

// Events that wait for the window are sent at once when the context ends.
func TestEnd(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, end func()) {
		r.tell(banned(host(1), 23))
		time.Sleep(2 * time.Second)
		r.tell(banned(host(2), 23))
		time.Sleep(time.Second)
		end()
		r.want(t, delivery{time.Second, "198.51.0.1 banned", 1}, delivery{3 * time.Second, "198.51.0.2 banned", 1})
	})
}

// A notice that waits to be tried again is tried once more when the context
// ends, and so is what happened since.
func TestEndOfRetry(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, end func()) {
		r.answer = func(context.Context, int) error { return &temporaryError{error: errors.New("no network")} }
		r.tell(banned(host(1), 23))
		time.Sleep(5 * time.Second) // tried after 1 s and 3 s
		r.tell(banned(host(2), 23))
		time.Sleep(time.Second)
		end()
		r.want(t,
			delivery{1 * time.Second, "198.51.0.1 banned", 1}, delivery{3 * time.Second, "198.51.0.1 banned", 1},
			delivery{6 * time.Second, "198.51.0.1 banned", 1}, delivery{6 * time.Second, "198.51.0.2 banned", 1},
		)
		r.wantStats(t, Stats{Failed: 2})
		if len(r.reports) != 3 || !strings.Contains(r.reports[2], "1 event not sent") {
			t.Errorf("reported %q", r.reports)
		}
	})
}

// A notice on its way to a server that never answers is neither cancelled at
// once when the context ends nor waited for long.
func TestEndOfHanging(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, end func()) {
		r.answer = func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return &temporaryError{error: ctx.Err()}
		}
		r.tell(banned(host(1), 23))
		time.Sleep(2 * time.Second)
		r.tell(banned(host(2), 23))
		begin := time.Now()
		end()
		if took := time.Since(begin); took != lastAttempt {
			t.Errorf("ended after %v, want %v", took, lastAttempt)
		}
		r.wantStats(t, Stats{Failed: 2})
	})
}

// Events are queued while a notice is being sent, without blocking.
func TestTellWhileSending(t *testing.T) {
	testChannel(t, func(r *fakeChannel, _ context.Context, _ func()) {
		answer := make(chan error)
		r.answer = func(context.Context, int) error { return <-answer }
		r.tell(banned(host(1), 23))
		time.Sleep(time.Hour)
		for i := range 1000 {
			r.tell(banned(host(i), 23))
		}
		if time.Since(r.start) != time.Hour {
			t.Error("telling took time")
		}
		r.wantStats(t, Stats{})
		answer <- nil
		answer <- nil
		r.want(t, delivery{time.Second, "198.51.0.1 banned", 1}, delivery{time.Hour + time.Second, "1000 banned", 1000})
	})
}

// A reload of the configuration does not set the counters back.
func TestContinue(t *testing.T) {
	conf := &config.Config{AbuseIPDBKeyFile: "/key", Watch: config.Watch{Ntfy: "https://ntfy.example.com/x", Command: []string{"/bin/true"}}}
	before := map[string]Stats{"ntfy": {3, 1}, "command": {0, 2}, "abuseipdb": {7, 0}}
	s := New(conf, Host{}, nil)
	s.Continue(before)
	if d := diff(before, s.Stats()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
