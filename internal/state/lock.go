package state

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const lockSuffix = ".lock"

// lockWait is how long to wait for another writer. One takes a second for a million records.
var lockWait = 10 * time.Second

// lock makes this the only writer of a state file until unlock is called or the process ends. The file beside it that stands for the
// lock stays, because to remove it would let in two at once.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := give(f); err != nil {
		f.Close()
		return nil, err
	}
	// By trying again rather than by waiting in the kernel, which nobody could end.
	for deadline := time.Now().Add(lockWait); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		case time.Now().After(deadline):
			f.Close()
			return nil, ErrLocked
		}
	}
}
