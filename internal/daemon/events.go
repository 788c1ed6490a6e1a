package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/events"
)

const (
	// keptEvents is how many events are kept for those who ask later, or read
	// slowly.
	keptEvents = 2048
	// eventPause is how long a reader waits after it has got some events, so
	// that many that come one by one are sent together.
	eventPause = 200 * time.Millisecond
)

// sendEvents sends the last events, and those that come if that is wanted. A
// reader may be as slow as it likes: it delays nobody but itself.
func (c *commands) sendEvents(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	last, err := strconv.Atoi(query.Get("last"))
	if err != nil || last < 0 {
		http.Error(w, "last: want a number of events", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	conn := http.NewResponseController(w)
	if query.Has("follow") {
		// Else the server would hang up after a while.
		if err := errors.Join(conn.SetReadDeadline(time.Time{}), conn.SetWriteDeadline(time.Time{})); err != nil {
			reply(w, nil, err)
			return
		}
	}
	reader := c.events.NewReader(last)
	var out bytes.Buffer // so that many go in few pieces
	lines := json.NewEncoder(&out)
	for buf := make([]events.Event, 0, 256); ; {
		buf = reader.Next(buf[:0])
		out.Reset()
		for i := range buf {
			if err := lines.Encode(&buf[i]); err != nil {
				panic(err) // texts, numbers and times are always possible
			}
		}
		if _, err := w.Write(out.Bytes()); err != nil {
			return // the client has gone
		}
		switch {
		case len(buf) == cap(buf): // there may be more
		case !query.Has("follow"):
			return
		case conn.Flush() != nil || !reader.Wait(r.Context()):
			return
		default:
			sleep(r.Context(), eventPause)
		}
	}
}
