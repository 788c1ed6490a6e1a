package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"sync"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/folder"
)

// maxQueued bounds the sightings that wait. The oldest give way.
const maxQueued = 4096

// queued is a sighting that waits.
type queued struct {
	wire.Sighting
	// ID has the hub count it once, however often it is sent.
	ID string `json:"id"`
}

// queue holds sightings until the hub has them.
type queue struct {
	wake chan struct{} // there is one

	mu      sync.Mutex
	waiting []queued
	dropped int
}

func (q *queue) add(all ...queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, all...)
	if over := len(q.waiting) - maxQueued; over > 0 {
		q.waiting, q.dropped = q.waiting[over:], q.dropped+over
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// first returns the one that waits longest.
func (q *queue) first() (s queued, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return s, false
	}
	return q.waiting[0], true
}

// done takes it out, if it has not given way meanwhile. Whether the hub has it
// tells what is dropped.
func (q *queue) done(id string, sent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 0 && q.waiting[0].ID == id {
		q.waiting = q.waiting[1:]
		if !sent {
			q.dropped++
		}
	}
}

func (q *queue) length() (waiting, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.dropped
}

// load takes over what an earlier run has left in a folder.
func (q *queue) load(state string) error {
	d, err := folder.Open(filepath.Dir(state))
	if err != nil {
		return err
	}
	defer d.Close()
	data, err := d.ReadFile(queueFile, maxQueued*wire.MaxMessage)
	for line := range bytes.Lines(data) {
		var s queued
		if json.Unmarshal(line, &s) == nil && s.ID != "" && !strings.ContainsAny(s.ID, "\r\n") && len(s.ID) < 100 {
			q.add(s)
		}
	}
	return errors.Join(ignoreMissing(err), d.Remove(queueFile))
}

// save leaves for the next run what waits, unless the host has left the fleet.
func (q *queue) save(state string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if member, err := IsMember(state); len(q.waiting) == 0 || err == nil && !member {
		return nil
	}
	d, err := folder.Open(filepath.Dir(state))
	if err != nil {
		return err
	}
	defer d.Close()
	var b bytes.Buffer
	for _, s := range q.waiting {
		if err := json.NewEncoder(&b).Encode(s); err != nil {
			return err
		}
	}
	return d.WriteFile(queueFile, b.Bytes())
}
