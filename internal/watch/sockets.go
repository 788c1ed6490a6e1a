package watch

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// backlog is how many reports may wait in memory. More wait in the buffers of the
// sockets, which are bounded.
const backlog = 64

// readLog passes on what comes from the log group until that ends.
func (w *Watcher) readLog(sources *sources) {
	for {
		messages, lost, err := w.log.Receive(nil)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		about := make([]netip.Prefix, len(messages))
		for i := range messages {
			var unknown error
			if about[i], unknown = sources.of(messages[i].Src); err == nil {
				err = unknown
			}
		}
		if !w.pass(w.reports, func() { w.onLog(messages, about, lost, err) }) || err == io.EOF {
			return
		}
	}
}

func (w *Watcher) onLog(messages []nflog.Message, about []netip.Prefix, lost nflog.Lost, err error) {
	now := book.ReadClock()
	for i := range messages {
		w.core.onLogMessage(&messages[i], about[i], now)
	}
	w.core.onLost(lost, now)
	if err == io.EOF {
		w.logEnded = true
	} else if err != nil {
		w.core.readSoon(now.Boot.Add(pause)) // finds what it was about
		w.fault(err)
	}
}

// readEvents passes on the events of the table until their socket is closed.
func (w *Watcher) readEvents() {
	for {
		events, err := w.monitor.Receive(nil)
		if errors.Is(err, os.ErrClosed) || !w.pass(w.reports, func() { w.onEvents(events, err) }) {
			return
		}
	}
}

func (w *Watcher) onEvents(events []nftset.Event, err error) {
	now := book.ReadClock()
	for _, ev := range events {
		w.core.onEvent(ev, now)
	}
	if err != nil {
		w.fault(err)
	}
}

// sources finds the prefix by which an address is banned. For IPv6 it asks the
// kernel, and so it does not run in the loop.
type sources struct {
	conn   *nftset.Conn
	table  string
	handle *ruleset.Handle
	read   time.Time
}

func (s *sources) of(a netip.Addr) (netip.Prefix, error) {
	const fresh = time.Second
	if !a.IsValid() {
		return netip.Prefix{}, nil
	}
	if s.handle == nil || a.Is6() && time.Since(s.read) > fresh {
		h, err := ruleset.Open(s.conn, s.table)
		if err != nil {
			return netip.Prefix{}, err
		}
		s.handle, s.read = h, time.Now()
	}
	return s.handle.Source(a)
}

// remembering returns the sets whose events matter: all that remember sources,
// whatever a configuration turns on. They need not exist.
func remembering(table string) (sets []nftset.Set) {
	all := ruleset.Default()
	all.Table, all.Subnet4, all.BanTime = table, all.Subnet6, slices.Repeat(all.BanTime[:1], ruleset.MaxSteps)
	for _, s := range ruleset.Compile(all).Sets {
		if role, _ := ruleset.RoleOf(s.Name); role != ruleset.RoleNone {
			sets = append(sets, s.Set)
		}
	}
	return sets
}
