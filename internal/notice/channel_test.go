package notice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// delivery is a notice that a channel sent, and when.
type delivery struct {
	at      time.Duration // since the beginning
	title   string
	count   int
	waiting int // of the channel, at that time
}

// rehearsal is a channel that sends into memory.
type rehearsal struct {
	*channel
	start   time.Time
	got     []delivery
	reports []string
	answer  func(ctx context.Context, try int) error // what becomes of a try, the first being 1
}

// rehearse runs a test of a channel in a bubble where time passes when all
// wait.
func rehearse(t *testing.T, test func(r *rehearsal, ctx context.Context, end func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rehearsal{start: time.Now(), answer: func(context.Context, int) error { return nil }}
		p := plan{window: time.Minute, report: func(err error) { r.reports = append(r.reports, err.Error()) }}
		r.channel = newChannel(p, func(ctx context.Context, n *notice) error {
			r.got = append(r.got, delivery{time.Since(r.start), n.title, n.count, r.stats().Waiting})
			return r.answer(ctx, len(r.got))
		})
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

func (r *rehearsal) want(t *testing.T, want ...delivery) {
	t.Helper()
	synctest.Wait()
	if got := fmt.Sprint(r.got); got != fmt.Sprint(want) {
		t.Errorf("sent %v\nwant %v", got, want)
	}
}

// The first event goes out after a second, with what came meanwhile. Then there
// is one notice a minute. After a quiet time there is one after a second again.
func TestWindow(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, _ func()) {
		r.tell([]Event{banned(host(1), 23)})
		time.Sleep(500 * time.Millisecond)
		r.tell([]Event{banned(host(2), 23)})
		time.Sleep(time.Second)
		for i := range 1000 {
			r.tell([]Event{banned(host(i), 23)})
		}
		time.Sleep(10 * time.Minute)
		r.tell([]Event{banned(host(3), 23)})
		time.Sleep(59 * time.Second)
		r.tell([]Event{banned(host(4), 23)})
		time.Sleep(10 * time.Minute)
		r.want(t,
			delivery{time.Second, "2 banned", 2, 2},
			delivery{61 * time.Second, "1000 banned", 1000, 1000},
			delivery{10*time.Minute + 2500*time.Millisecond, "198.51.0.3 banned", 1, 1},
			delivery{11*time.Minute + 2500*time.Millisecond, "198.51.0.4 banned", 1, 1},
		)
		if got := r.stats(); got != (ChannelStats{Sent: 4}) {
			t.Errorf("%+v", got)
		}
	})
}

// A stream of events that never ends is a notice a minute.
func TestStream(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, _ func()) {
		for i := range 600 {
			r.tell([]Event{banned(host(i), 23)})
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

// What may pass is tried again, at greater and greater intervals, while others
// wait. Two reports are made of it.
func TestRetry(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, _ func()) {
		r.answer = func(_ context.Context, try int) error {
			if try <= 6 {
				return &tryAgain{err: errors.New("no network")}
			}
			return nil
		}
		r.tell([]Event{banned(host(1), 23), banned(host(2), 23)})
		time.Sleep(20 * time.Second)
		r.tell([]Event{banned(host(3), 23)})
		time.Sleep(time.Hour)
		r.want(t,
			delivery{1 * time.Second, "2 banned", 2, 2},
			delivery{3 * time.Second, "2 banned", 2, 2},
			delivery{13 * time.Second, "2 banned", 2, 2},
			delivery{43 * time.Second, "2 banned", 2, 3},
			delivery{103 * time.Second, "2 banned", 2, 3},
			delivery{223 * time.Second, "2 banned", 2, 3},
			delivery{224 * time.Second, "198.51.0.3 banned", 1, 1},
		)
		if got := r.stats(); got != (ChannelStats{Sent: 1, Failed: 1, Dropped: 2}) {
			t.Errorf("%+v", got)
		}
		if d := diff([]string{"no network (will be tried again)", "no network (try 6, given up: 2 events not sent)"}, r.reports); d != "" {
			t.Errorf("(-want +reported)\n%s", d)
		}
	})
}

// What will not pass is not tried again.
func TestFinal(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, _ func()) {
		r.answer = func(context.Context, int) error { return &StatusError{Code: 401} }
		r.tell([]Event{banned(host(1), 23)})
		time.Sleep(time.Hour)
		r.want(t, delivery{time.Second, "198.51.0.1 banned", 1, 1})
		if got := r.stats(); got != (ChannelStats{Failed: 1, Dropped: 1}) {
			t.Errorf("%+v", got)
		}
		if d := diff([]string{"status 401 Unauthorized (try 1, given up: 1 event not sent)"}, r.reports); d != "" {
			t.Errorf("(-want +reported)\n%s", d)
		}
	})
}

// A server gets the pause that it asks for, if that is longer than ours, and
// not too long.
func TestDelay(t *testing.T) {
	tests := []struct {
		after time.Duration
		try   int
		want  time.Duration
	}{
		{0, 1, 2 * time.Second},
		{time.Second, 1, 2 * time.Second},
		{time.Minute, 1, time.Minute},
		{time.Minute, 5, 2 * time.Minute},
		{time.Hour, 1, 15 * time.Minute},
	}
	for _, tt := range tests {
		if got := (&tryAgain{after: tt.after}).delay(tt.try); got != tt.want {
			t.Errorf("try %d, asked for %v: got %v, want %v", tt.try, tt.after, got, tt.want)
		}
	}
}

// The end comes while events wait for the window: they are sent at once.
func TestEnd(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, end func()) {
		r.tell([]Event{banned(host(1), 23)})
		time.Sleep(2 * time.Second)
		r.tell([]Event{banned(host(2), 23)})
		time.Sleep(time.Second)
		end()
		r.want(t, delivery{time.Second, "198.51.0.1 banned", 1, 1}, delivery{3 * time.Second, "198.51.0.2 banned", 1, 1})
	})
}

// The end comes while a notice waits to be tried again: that is tried once
// more, and so is what came since.
func TestEndOfRetry(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, end func()) {
		r.answer = func(context.Context, int) error { return &tryAgain{err: errors.New("no network")} }
		r.tell([]Event{banned(host(1), 23)})
		time.Sleep(5 * time.Second) // tried after 1 s and 3 s
		r.tell([]Event{banned(host(2), 23)})
		time.Sleep(time.Second)
		end()
		r.want(t,
			delivery{1 * time.Second, "198.51.0.1 banned", 1, 1}, delivery{3 * time.Second, "198.51.0.1 banned", 1, 1},
			delivery{6 * time.Second, "198.51.0.1 banned", 1, 2}, delivery{6 * time.Second, "198.51.0.2 banned", 1, 1},
		)
		if got := r.stats(); got != (ChannelStats{Failed: 2, Dropped: 2}) {
			t.Errorf("%+v", got)
		}
		if len(r.reports) != 3 || !strings.Contains(r.reports[2], "1 event not sent") {
			t.Errorf("reported %q", r.reports)
		}
	})
}

// The end comes while a notice is on its way to somebody who never answers. It
// is not broken off at once, and not waited for long.
func TestEndOfHanging(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, end func()) {
		r.answer = func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return &tryAgain{err: ctx.Err()}
		}
		r.tell([]Event{banned(host(1), 23)})
		time.Sleep(2 * time.Second)
		r.tell([]Event{banned(host(2), 23)})
		begin := time.Now()
		end()
		if took := time.Since(begin); took != farewell {
			t.Errorf("ended after %v, want %v", took, farewell)
		}
		if got := r.stats(); got != (ChannelStats{Failed: 2, Dropped: 2}) {
			t.Errorf("%+v", got)
		}
	})
}

// Events are taken in while a notice is being sent, and whoever tells does not
// wait.
func TestTellWhileSending(t *testing.T) {
	rehearse(t, func(r *rehearsal, _ context.Context, _ func()) {
		answer := make(chan error)
		r.answer = func(context.Context, int) error { return <-answer }
		r.tell([]Event{banned(host(1), 23)})
		time.Sleep(time.Hour)
		for i := range 1000 {
			r.tell([]Event{banned(host(i), 23)})
		}
		if time.Since(r.start) != time.Hour {
			t.Error("telling took time")
		}
		if got := r.stats(); got != (ChannelStats{Waiting: 1001}) {
			t.Errorf("%+v", got)
		}
		answer <- nil
		answer <- nil
		r.want(t, delivery{time.Second, "198.51.0.1 banned", 1, 1}, delivery{time.Hour + time.Second, "1000 banned", 1000, 1000})
	})
}
