package watch

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// received is what was received from a socket at once.
type received struct {
	messages []message
	lost     nflog.Lost
	events   []nftset.Event
	err      error // io.EOF is the end of the log
}

// message is a log message and the source that it is about.
type message struct {
	nflog.Message
	source netip.Prefix
}

// backlog is how many reports may wait in memory. More wait in the buffers of the
// sockets, which are bounded.
const backlog = 64

// forward sends what receive returns to the loop until the socket is closed.
func (w *Watcher) forward(receive func() received) {
	for {
		r := receive()
		if errors.Is(r.err, os.ErrClosed) {
			return
		}
		select {
		case w.reports <- r:
		case <-w.done:
			return
		}
		if r.err == io.EOF {
			return
		}
	}
}

// readLog receives from the log group.
func readLog(c *nflog.Conn, sources *sources) (r received) {
	var messages []nflog.Message
	messages, r.lost, r.err = c.Receive(nil)
	for _, m := range messages {
		source, err := sources.of(m.Src)
		r.messages = append(r.messages, message{m, source})
		if r.err == nil {
			r.err = err
		}
	}
	return r
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

// remembering returns the sets whose events matter: all that remember sources.
// They need not exist.
func remembering(table nftset.Table) []nftset.Set {
	var sets []nftset.Set
	for _, a := range [...]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		for _, role := range [...]ruleset.Role{ruleset.RoleStep, ruleset.RoleScanner, ruleset.RoleBan, ruleset.RoleSubnet, ruleset.RoleNet} {
			flags := nftset.FlagDynamic | nftset.FlagTimeout
			if role == ruleset.RoleNet {
				flags = nftset.FlagInterval | nftset.FlagTimeout
			}
			for step := 1; step <= ruleset.MaxSteps; step++ {
				sets = append(sets, nftset.Set{Table: table, Name: role.Set(a, step), Type: nftset.AddrKey(a).Type(), Flags: flags})
				if role != ruleset.RoleStep {
					break
				}
			}
		}
	}
	return sets
}
