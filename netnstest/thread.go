package netnstest

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/vishvananda/netns"
)

// onThread runs f in a goroutine with a thread to itself, which enter has taken
// to another network namespace. The thread goes back to where it came from
// before any other goroutine may use it; if it cannot, it ends with its
// goroutine, so that no thread is ever left in a foreign namespace.
//
// A goroutine of its own it must be, even for a caller that is locked to a
// thread: setns(2) acts on the thread, and the caller's would be lost if it
// could not go back. If enter fails, f is not run and onThread returns the
// error. A panic in f goes on in the caller, and where f ends its goroutine, as
// t.FailNow does, the caller's ends too.
func onThread(enter func() error, f func()) error {
	var (
		err      error
		returned bool
		panicked *panicError
		done     = make(chan struct{})
	)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, getErr := netns.Get()
		if getErr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open network namespace of the thread: %w", getErr)
			return
		}
		defer home.Close()
		defer func() {
			if setErr := netns.Set(home); setErr != nil {
				err = fmt.Errorf("return to the network namespace of the thread: %w", setErr)
				return // still locked: the runtime ends the thread with the goroutine
			}
			runtime.UnlockOSThread()
		}()
		if err = enter(); err != nil {
			return
		}
		defer func() {
			if v := recover(); v != nil {
				panicked = &panicError{v, debug.Stack()}
			}
		}()
		f()
		returned = true
	}()
	<-done

	switch {
	case panicked != nil:
		panic(panicked)
	case err != nil:
		return err
	case !returned:
		runtime.Goexit()
	}
	return nil
}

// panicError carries a panic from the goroutine in which it was raised to the
// one that waits for it.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	return fmt.Sprintf("%v\n\nraised in another namespace:\n%s", p.value, p.stack)
}

// Unwrap returns what was raised, if that was an error.
func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}
