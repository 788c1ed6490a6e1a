package main

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// withSets is [ruleset.Handle.Retry]; if the table is gone, that is the error.
func withSets(h *ruleset.Handle, f func() error) error {
	err := h.Retry(f)
	if errors.Is(err, os.ErrNotExist) && !h.Exists {
		return errNoTable
	}
	return err
}

// countBans returns how many bans a table holds.
func countBans(h *ruleset.Handle) (n int, err error) {
	fill, err := h.Fill()
	for _, f := range fill {
		if role, _ := ruleset.RoleOf(f.Set); role.Bans() {
			n += f.Count
		}
	}
	return n, err
}

// readKernel returns a book of all that a table holds.
func readKernel(h *ruleset.Handle) (held *book.Book, err error) {
	err = withSets(h, func() error {
		before := h.State
		if held, err = readSets(h); err != nil {
			return err
		}
		if err := h.Refresh(); err != nil {
			return err
		}
		// What was moved to another set meanwhile may have been missed. The sets
		// of a table that was made anew have the handles of those before.
		if before.Handle != h.Handle || !slices.EqualFunc(before.Sets, h.Sets, func(a, b nftset.Set) bool { a.Count = b.Count; return a == b }) {
			return fmt.Errorf("the sets were changed meanwhile: %w", os.ErrNotExist)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read bans: %w", err)
	}
	return held, nil
}

// readSets reads each set once. Of several bans of a source the longest counts.
func readSets(h *ruleset.Handle) (*book.Book, error) {
	held := book.New(math.MaxInt)
	start, begun := book.ReadClock().Boot, time.Now()
	for r := range ahead(h.Records(), time.Now) {
		if r.err != nil {
			return nil, r.err
		}
		row := book.RowOf(&r.value, start.Add(r.at.Sub(begun)))
		if old, ok := held.Get(row.Source); ok {
			step := row
			if old.Step > row.Step {
				step = old
			}
			if old.Allowed {
				row = old
			} else if !row.Allowed && old.Banned && (!row.Banned || old.Timeout == 0 || row.Timeout > 0 && old.Until >= row.Until) {
				row = old
			}
			row.Step, row.StepUntil = step.Step, step.StepUntil
		}
		held.Put(row)
	}
	return held, nil
}

// dated is what was read from the kernel, and when.
type dated[T any] struct {
	value T
	at    time.Time
	err   error
}

// ahead reads a sequence in the background as soon as it is called, up to a
// hundred thousand values ahead: most of the time the kernel is at work, and
// what is read can be worked up meanwhile. Nothing else may use the connection
// until the loop over it has ended.
func ahead[T any](seq iter.Seq2[T, error], now func() time.Time) iter.Seq[dated[T]] {
	const size, most = 256, 400
	chunks, stop := make(chan []dated[T], most), make(chan struct{})
	go func() {
		defer close(chunks)
		var chunk []dated[T]
		send := func() bool {
			select {
			case chunks <- chunk:
				chunk = make([]dated[T], 0, size)
				return true
			case <-stop:
				return false
			}
		}
		for v, err := range seq {
			if chunk = append(chunk, dated[T]{v, now(), err}); len(chunk) == size && !send() {
				return
			}
		}
		send()
	}()
	return func(yield func(dated[T]) bool) {
		defer func() {
			close(stop)
			for range chunks { // until the connection is free
			}
		}()
		for chunk := range chunks {
			for _, d := range chunk {
				if !yield(d) {
					return
				}
			}
		}
	}
}
