package watch

import (
	"errors"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/book"
)

const (
	// maxUnlocated is how many news may wait to be located.
	maxUnlocated = 1 << 14
	// locatePatience is how long the last ones may take.
	locatePatience = 5 * time.Second
)

// unlocated are the news whose places are looked up beside the loop, as that may
// wait for a disk.
type unlocated struct {
	mu      sync.Mutex
	waiting []News
	wake    chan struct{} // closed when no more will come
	done    chan struct{} // closed when all were passed on
}

// publish passes news on, in their order.
func (w *Watcher) publish(news []News) {
	if w.config.Locate == nil || len(news) == 0 { // what is passed on has the loop come here again
		w.tell(news)
		return
	}
	u := &w.unlocated
	u.mu.Lock()
	room := min(len(news), maxUnlocated-len(u.waiting))
	u.waiting = append(u.waiting, news[:room]...)
	u.mu.Unlock()
	if room < len(news) {
		w.fault(errors.New("events were left out: to look up where sources are takes too long"))
	}
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

func (w *Watcher) tell(news []News) {
	if len(news) > 0 && w.config.News != nil {
		w.config.News(news)
	}
}

// locate passes on news with their places until no more will come.
func (w *Watcher) locate() {
	u := &w.unlocated
	defer close(u.done)
	for more := true; more; {
		_, more = <-u.wake
		u.mu.Lock()
		news := u.waiting
		u.waiting = nil
		u.mu.Unlock()
		for i := range news {
			if news[i].Source.IsValid() {
				news[i].Place = w.config.Locate(news[i].Source)
			}
			if news[i].isOffence() && w.config.Uses != nil {
				news[i].Uses = w.config.Uses(news[i].Source)
			}
		}
		w.pass(w.calls, func() { w.core.addPlaces(news, book.ReadClock()) })
		w.tell(news)
	}
}

// awaitLocated returns when all news were passed on.
func (w *Watcher) awaitLocated() {
	if w.config.Locate == nil {
		return
	}
	close(w.unlocated.wake)
	for late := time.After(locatePatience); ; {
		select {
		case f := <-w.calls:
			f()
		case <-w.unlocated.done:
			return
		case <-late:
			w.fault(errors.New("the last events were left out: to look up where sources are takes too long"))
			return
		}
	}
}
