package companion

import (
	"os"
	"runtime/debug"
)

// frugal has garbage collected when there is half as much of it as of what is kept, where Go would wait for as much again; unless
// the user says otherwise by GOGC. What is kept, the bans and the offences, has no pointers to follow, and so a collection takes a
// fraction of a millisecond for each ten thousand of them. The function that it returns undoes it.
func frugal() (undo func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(50)
	return func() { debug.SetGCPercent(before) }
}

// giveBack gives memory that is not needed any more to the system. With 65,536 bans, a saving leaves more garbage than the 3 MB that it
// needs, and the reading at the start more than that; Go would keep it for minutes, in wait of more work of the kind, and the next
// saving is a minute away. It takes about 2 ms of CPU.
func giveBack() { debug.FreeOSMemory() }
