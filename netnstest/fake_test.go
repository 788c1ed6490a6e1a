package netnstest

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// fakeT is a test that may fail without the one that runs it.
type fakeT struct {
	testing.TB
	cleanups []func()
	messages []string
}

func (f *fakeT) Helper()           {}
func (f *fakeT) Cleanup(fn func()) { f.cleanups = append(f.cleanups, fn) }
func (f *fakeT) Failed() bool      { return len(f.messages) > 0 }
func (f *fakeT) FailNow()          { f.messages = append(f.messages, ""); runtime.Goexit() }
func (f *fakeT) Fatalf(s string, args ...any) {
	f.messages = append(f.messages, fmt.Sprintf(s, args...))
	runtime.Goexit()
}

func (f *fakeT) Errorf(s string, args ...any) {
	f.messages = append(f.messages, fmt.Sprintf(s, args...))
}

// run runs fn as testing runs a test, with its cleanups last in first out, and returns what it failed with.
func (f *fakeT) run(fn func()) string {
	inGoroutine := func(fn func()) {
		done := make(chan struct{})
		go func() { defer close(done); fn() }()
		<-done
	}
	inGoroutine(fn)
	for len(f.cleanups) > 0 {
		last := len(f.cleanups) - 1
		c := f.cleanups[last]
		f.cleanups = f.cleanups[:last]
		inGoroutine(c)
	}
	return strings.Join(f.messages, "\n")
}

// wantFatal checks that fn fails its test, with a message that has all of want in it.
func wantFatal(t *testing.T, fn func(t testing.TB), want ...string) {
	t.Helper()
	fake := &fakeT{TB: t}
	got := fake.run(func() { fn(fake) })
	if !fake.Failed() {
		t.Errorf("did not fail, want %q", want)
	}
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("failed with %q, want %q in it", got, w)
		}
	}
}
