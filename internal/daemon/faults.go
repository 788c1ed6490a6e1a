package daemon

import (
	"errors"
	"log"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/book"
)

const (
	// again is for how long a fault is not written again.
	again = time.Minute
	// maxFaults is how many different ones are written in that time. A fault
	// may name an address, of which there are many.
	maxFaults = 20
)

// otherFaults stands for those that there was no room for.
const otherFaults = "other faults"

// written is a fault that was written at that moment, and how often it came
// since.
type written struct {
	at     book.Moment
	silent int
}

// fault writes what went wrong; the same no more than once a minute, with the
// count of what was left out.
func (j *journal) fault(err error) { j.faultAt(err, book.ReadClock().Boot) }

func (j *journal) faultAt(err error, now book.Moment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flushFaults(now.Add(-again), now)
	text := err.Error()
	if f := j.faults[text]; f == nil && len(j.faults) < maxFaults {
		j.faults[text] = &written{at: now}
		j.Warn(text)
		return
	} else if f == nil {
		text = otherFaults
	}
	if j.faults[text] == nil {
		j.faults[text] = &written{at: now}
	}
	j.faults[text].silent++
}

// flushFaults writes how often those faults came again that were written until
// then. One that goes on counts as written now.
func (j *journal) flushFaults(until, now book.Moment) {
	for _, text := range slices.Sorted(maps.Keys(j.faults)) {
		switch f := j.faults[text]; {
		case f.at > until:
		case f.silent == 0:
			delete(j.faults, text)
		default:
			j.Warn(text, "times", f.silent)
			*f = written{at: now}
		}
	}
}

// serverLog returns a logger for servers, whose lines become faults.
func (j *journal) serverLog() *log.Logger { return log.New(serverFaults{j}, "", 0) }

type serverFaults struct{ *journal }

// Write implements [io.Writer].
func (f serverFaults) Write(line []byte) (int, error) {
	f.fault(errors.New(strings.TrimSpace(string(line))))
	return len(line), nil
}
