package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/ruleset"
)

const (
	// maxLookups is how many names are looked up at a time: a resolver that does
	// not answer keeps each for half a minute.
	maxLookups = 16
	// planAgain is after how long what could not be done is tried again.
	planAgain = 5 * time.Second
)

// follower has the addresses of the configured names allowed. Its goroutine
// owns all of it.
type follower struct {
	*daemon
	names   names.Names
	answers chan func()
	asking  int
	planAt  time.Time
}

// followNames runs a follower until the context ends. It changes the kernel like
// any other program, and so the watcher learns of it.
func (d *daemon) followNames(ctx context.Context) {
	select {
	case <-d.isReady: // what is remembered is in the table
	case <-ctx.Done():
		return
	}
	f := &follower{daemon: d, answers: make(chan func(), maxLookups)}
	f.configure()
	for ctx.Err() == nil {
		if !time.Now().Before(f.planAt) {
			f.planAt = time.Now().Add(f.allow(ctx))
		}
		wake := time.NewTimer(min(f.ask(ctx), time.Until(f.planAt)))
		select {
		case onAnswer := <-f.answers:
			onAnswer()
		case <-d.renamed:
			f.configure()
		case <-wake.C:
		case <-ctx.Done():
		}
		wake.Stop()
	}
}

// configure takes the names from the configuration.
func (f *follower) configure() {
	f.mu.Lock()
	configured := f.current.Names
	f.mu.Unlock()
	f.names.Configure(configured)
	f.report()
	f.planAt = time.Now()
}

// report publishes what is known of the names.
func (f *follower) report() {
	status := f.names.Status()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.named = status
}

// ask looks up what is to be asked now, beside the loop, and returns for how long
// there is nothing.
func (f *follower) ask(ctx context.Context) time.Duration {
	for f.asking < maxLookups {
		q, ok, idle := f.names.Next(time.Now())
		if !ok {
			return idle
		}
		f.asking++
		f.parts.Go(func() {
			a := names.Lookup(ctx, q)
			f.answers <- func() { f.onAnswer(q, a) }
		})
	}
	return time.Hour // an answer comes first
}

func (f *follower) onAnswer(q names.Question, a names.Answer) {
	f.asking--
	before := f.names.Status()
	f.names.OnAnswer(q, a, time.Now())
	f.report()
	f.planAt = time.Now()
	for i, now := range f.names.Status() {
		if had := before[i]; !slices.Equal(had.Addrs, now.Addrs) {
			f.journal.Info("name has changed", "name", now.Name, "addresses", addresses(now.Addrs))
		}
		switch had := before[i]; {
		case had.Err == nil && now.Err != nil:
			f.journal.Warn("name has no good answer", "name", now.Name, "error", now.Err)
		case had.Err != nil && now.Err == nil:
			f.journal.Info("name is answered again", "name", now.Name)
		}
	}
}

func addresses(addrs []netip.Addr) string {
	text := make([]string, len(addrs))
	for i, a := range addrs {
		text[i] = a.String()
	}
	return strings.Join(text, ", ")
}

// allow makes the table allow what the names say, and returns for how long it
// will.
func (f *follower) allow(ctx context.Context) time.Duration {
	again, err := f.tryAllow()
	switch {
	case err == nil && again > 0:
		return again
	case err == nil:
		return time.Hour // an answer comes first, if there are names
	case ctx.Err() == nil && !errors.Is(err, os.ErrNotExist):
		f.journal.fault(fmt.Errorf("allow what whitelist_names says: %w", err))
	}
	return planAgain
}

// tryAllow is allow. The error is os.ErrNotExist if there is no table for it.
func (f *follower) tryAllow() (again time.Duration, err error) {
	conn, err := f.config.Dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	h, err := ruleset.Open(conn, f.tableName())
	if err != nil {
		return 0, err
	}
	var have []ruleset.Entry
	for e, err := range h.Allowed() {
		if err != nil {
			return 0, err
		}
		have = append(have, e)
	}
	plan, err := f.names.Plan(have, h.Source)
	if err != nil {
		return 0, err
	}
	f.report() // of what it has found remembered
	if len(plan.End) > 0 {
		if err := h.EndAllowed(ruleset.CauseName, plan.End...); err != nil {
			return 0, err
		}
	}
	if len(plan.Allow) > 0 {
		refused, _, _, err := h.Allow(plan.Allow)
		if err := errors.Join(append(refused, err)...); err != nil {
			return 0, err
		}
	}
	return plan.Again, nil
}
