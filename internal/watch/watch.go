package watch

import (
	"context"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// Config says what to watch, and how.
type Config struct {
	// NetNS is the file descriptor of the network namespace, or 0 for that of the calling thread. It is needed only until Ready.
	NetNS int

	// Spec is the table, and the ladder. It must be valid.
	Spec ruleset.Spec

	// Forget is how long a source must have been free and quiet for its offences to be forgotten.
	Forget time.Duration

	// ReadBuffer is the size in bytes of the buffers in which messages and events wait to be received, or 0 for the defaults of nflog
	// and nftset.
	ReadBuffer int

	// State is the file that bans and offences are remembered in; empty for none.
	State string

	// SaveEvery is how often that is written, besides at the start and at the end; 0 means once a minute. What is lost with a watcher that
	// is killed is in the sets for as long as the bans last.
	SaveEvery time.Duration

	// Ready, unless nil, is called once, when nothing that happens from then on will be missed.
	Ready func()

	// News, unless nil, gets what happened, in the order in which it was heard of. It must not block, nor keep the slice.
	News func([]News)

	// Fault, unless nil, gets what went wrong without an end to the watch.
	Fault func(error)

	// Freed, unless nil, is called when much memory may have become free: after all sets were read, and after the state was written. It
	// may be called by several goroutines at a time.
	Freed func()

	// Beat, unless nil, is called again and again while all is well, at least every BeatEvery; 0 means every 10 seconds.
	Beat      func()
	BeatEvery time.Duration
}

// Watcher listens to the kernel from the moment it is opened, and acts upon it while it runs.
type Watcher struct{ l *loop }

// Open subscribes to all that there is to hear. The error is [nflog.ErrBusy] if another watcher runs in this network namespace.
func Open(config Config) (*Watcher, error) {
	l, err := open(config)
	if err != nil {
		return nil, err
	}
	return &Watcher{l}, nil
}

// Run watches until the context ends, for which the error is nil; then the kernel is left as it is. It can be called once. A Config
// from reload takes the place of the one before, but for its NetNS, its ReadBuffer, its State and SaveEvery, its callbacks, and the
// name of the table.
func (w *Watcher) Run(ctx context.Context, reload <-chan Config) error {
	defer close(w.l.ended)
	return w.l.run(ctx, reload)
}

// Close ends the subscriptions. Run must have returned, or never have been called.
func (w *Watcher) Close() { w.l.close() }
