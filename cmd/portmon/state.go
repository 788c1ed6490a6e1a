package main

import (
	"cmp"
	"errors"
	"io/fs"
	"net/netip"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/ruleset"
)

// findState finds the file in which bans are remembered, and the databases of
// places, for commands that are about these. Without --config they go on without
// the files as far as they can.
func (p *cli) findState(*cobra.Command, []string) error {
	if err := p.lookForState(nil, nil); err != nil || p.stateErr == nil || p.configFile == "" {
		return err
	}
	p.fail(p.stateErr)
	p.hint("what is only about the table can be done without it: list, why, ban, unban, allow, disallow, top, test and remove")
	return exitCodeError(exitUsage)
}

// lookForState is findState for what must be possible in an emergency: a --config
// that is there, but cannot be read, leaves at least the table. Each command says
// what it leaves out.
func (p *cli) lookForState(*cobra.Command, []string) error {
	p.state, _, p.databases, p.stateErr = config.Glance(p.configFile)
	switch {
	case p.stateErr == nil:
	case p.configFile != "" && errors.Is(p.stateErr, fs.ErrNotExist):
		return p.stateErr
	default:
		if p.state = usualState(config.Salvage(p.configFile).Source); p.state != "" {
			p.stateErr = nil
		}
	}
	return nil
}

// lockPatience is how long a command waits for the lock of the book. A watcher
// holds it all the time, another command for well under a second.
const lockPatience = 2 * time.Second

// bookConfig returns how to open the book of a table, which need not be there.
func (p *cli) bookConfig(h *ruleset.Handle) book.Config {
	size := 0
	for i := range h.Sets {
		if role, _ := ruleset.RoleOf(h.Sets[i].Name); role != ruleset.RoleNone && role != ruleset.RoleFleet {
			size += int(h.Sets[i].Size)
		}
	}
	return book.Config{
		Path: p.state, MaxRows: max(book.DefaultMaxRows, size),
		Here: book.Of(h.State), Now: book.ReadClock(), Wait: lockPatience,
	}
}

// lookAtBook reports what the book is about. One of another machine or network
// namespace is refused.
func (p *cli) lookAtBook(h *ruleset.Handle) (book.Report, error) {
	if p.state == "" {
		return book.Report{}, p.stateErr
	}
	report, err := book.Look(p.bookConfig(h))
	return report, cmp.Or(err, originError(report))
}

// originError returns an error for a book that is not about this table.
func originError(r book.Report) error {
	if r.Origin == nil {
		return nil
	}
	return &book.Error{Op: "use", Path: r.Path, Err: r.Origin}
}

// changeBook opens the book, lets f change it, and writes it. By force it does
// so even if a watcher that hangs has it locked.
func (p *cli) changeBook(h *ruleset.Handle, force bool, f func(b *book.Book, r book.Report) error) error {
	c := p.bookConfig(h)
	c.Force = force
	b, report, err := book.Open(c)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := originError(report); err != nil {
		return err
	}
	p.warnDamage(report)
	if err := f(b, report); err != nil {
		return err
	}
	return b.Compact(book.ReadClock())
}

func (p *cli) warnDamage(r book.Report) {
	if damage := r.String(); damage != "" {
		p.warn("%s", damage)
	}
}

// errFewer has what was prepared for the book be prepared anew.
var errFewer = errors.New("some of the bans were refused")

// rememberBans notes bans unless a watcher does, while put makes them, which
// takes some time if they are many: the file is only changed once they are in
// force. It returns those that put has made, and its error; if the bans cannot
// be noted it only warns.
func (p *cli) rememberBans(
	h *ruleset.Handle, records []ruleset.Record, put func() (made []ruleset.Record, err error),
) (made []ruleset.Record, err error) {
	conf, observed, err := p.bookConfig(h), h.Observe, p.stateErr // of now: put reads the table anew
	put = sync.OnceValues(put)
	const few = 1 << 16 // for more, other commands would not wait
	if len(records) <= few {
		go put()
	} else if made, err := put(); err != nil {
		return made, err
	}
	if w, _ := p.runningWatcher(); w != nil {
		w.Close()
		return put()
	} else if err == nil {
		sources := make([]netip.Prefix, len(records))
		for i := range records {
			sources[i] = records[i].Source
		}
		for range 3 {
			var report book.Report
			report, err = book.Amend(conf, sources, func(b *book.Book) {
				for i := range records {
					row := book.RowOf(&records[i], conf.Now.Boot)
					row.Observed = observed
					b.Learn(row)
				}
			}, func() error {
				made, err := put()
				if err == nil && len(made) < len(records) {
					records, err = made, errFewer
				}
				return err
			})
			if !errors.Is(err, book.ErrReplaced) && !errors.Is(err, errFewer) {
				p.warnDamage(report)
				break
			}
		}
	}
	made, putErr := put()
	if putErr == nil && err != nil {
		p.warn("it is not remembered, and ends with a reboot or a flush of nftables: %v", err)
	}
	return made, putErr
}

// isAbout reports whether a book is about this very table, as it was read last,
// so that what is missing from the table was lifted or is over. That is to be
// asked of an open book once the table has been read: before that, other
// programs may have made another one.
func isAbout(b *book.Book, h *ruleset.Handle) bool { return h.Exists && b.Table() == h.Handle }

// catchUpNow reads a table, if it is still there, and has a book catch up with it.
func (p *cli) catchUpNow(b *book.Book, h *ruleset.Handle) error {
	held, err := readKernel(h)
	switch {
	case errors.Is(err, errNoTable):
		return nil
	case err == nil:
		p.catchUp(b, held, h, h.Observe)
	}
	return err
}

// catchUp enters what a table was just read to hold into a book, and if the book
// is about that table, removes what it does not hold any more. What the book does
// not know was only observed if the table does that.
func (p *cli) catchUp(b, held *book.Book, h *ruleset.Handle, observed bool) {
	now := book.ReadClock()
	b.Sweep(now)
	if isAbout(b, h) {
		for row := range b.Rows() {
			now, _ := held.Get(row.Source)
			if row.Step > now.Step {
				b.Free(row.Source)
			} else if row.Banned && !now.Banned {
				b.Lift(row.Source)
			}
			if row.Allowed && !now.Allowed {
				b.DisallowAlone(row.Source)
			}
		}
	}
	for row := range held.Rows() {
		row.Observed = observed
		p.learn(b, row, now)
	}
}
