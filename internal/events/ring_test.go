package events

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func add(r *Ring, n int) {
	for range n {
		r.Add(Event{Event: "banned"})
	}
}

// sequence returns the numbers of events, of those that are lost how many.
func sequence(events []Event) (s string) {
	for _, e := range events {
		if e.Event == Lost {
			s += fmt.Sprintf("lost %d, ", e.Count)
		}
		s += fmt.Sprintf("%d ", e.Seq)
	}
	return s
}

func TestRingKeepsTheLast(t *testing.T) {
	for _, tt := range []struct {
		added, last int
		want        string
	}{
		{0, 10, ""}, {2, 10, "1 2 "}, {2, 1, "2 "}, {2, 0, ""}, {4, 10, "1 2 3 4 "}, {7, 10, "4 5 6 7 "}, {7, 2, "6 7 "},
	} {
		r := NewRing(4)
		add(r, tt.added)
		if got := sequence(r.NewReader(tt.last).Next(make([]Event, 0, 10))); got != tt.want {
			t.Errorf("the last %d of %d: got %q, want %q", tt.last, tt.added, got, tt.want)
		}
	}
}

func TestSlowReaderIsTold(t *testing.T) {
	r := NewRing(4)
	reader := r.NewReader(0)
	add(r, 3)
	buf := reader.Next(make([]Event, 0, 2))
	if got := sequence(buf); got != "1 2 " {
		t.Errorf("got %q", got)
	}
	add(r, 6) // now 9, of which the last four are kept
	var got string
	for buf = reader.Next(buf[:0]); len(buf) > 0; buf = reader.Next(buf[:0]) {
		got += sequence(buf)
	}
	if want := "lost 3, 5 6 7 8 9 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRing(4)
		ctx, cancel := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				reader := r.NewReader(0)
				for n := 1; n <= 2; n++ {
					if !reader.Wait(ctx) {
						t.Errorf("event %d did not come", n)
						return
					}
					if got := sequence(reader.Next(make([]Event, 0, 1))); got != fmt.Sprintf("%d ", n) {
						t.Errorf("got %q, want event %d", got, n)
					}
				}
				if reader.Wait(ctx) {
					t.Error("an event came after the end")
				}
			})
		}
		for range 2 {
			time.Sleep(time.Second) // of the bubble: all are waiting
			add(r, 1)
		}
		time.Sleep(time.Second)
		cancel()
		readers.Wait()
	})
}
