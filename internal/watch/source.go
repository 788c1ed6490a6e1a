package watch

import (
	"errors"
	"os"

	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
)

// report is what one reading of a socket brought.
type report struct {
	messages []nflog.Message
	lost     nflog.Lost
	events   []nftset.Event
	err      error
}

// backlog is how many reports may wait in memory; more wait in the buffers of the sockets, which have a bound.
const backlog = 64

// readLog sends what the log group says until the connection is closed.
func readLog(c *nflog.Conn, out chan<- report, done <-chan struct{}) {
	for {
		var r report
		r.messages, r.lost, r.err = c.Receive(nil)
		if errors.Is(r.err, os.ErrClosed) || !send(out, r, done) {
			return
		}
	}
}

// readEvents sends what the nftables group says until the monitor is closed.
func readEvents(m *nftset.Monitor, out chan<- report, done <-chan struct{}) {
	for {
		var r report
		r.events, r.err = m.Receive(nil)
		if errors.Is(r.err, os.ErrClosed) || !send(out, r, done) {
			return
		}
	}
}

func send(out chan<- report, r report, done <-chan struct{}) bool {
	select {
	case out <- r:
		return true
	case <-done:
		return false
	}
}
