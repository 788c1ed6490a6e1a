package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// reloads reads the configuration again whenever it is told to.
func (d *daemon) reloads(ctx context.Context, reload <-chan struct{}) {
	// To say that it is ready after a reload, it must have been so before.
	select {
	case <-d.isReady:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-reload:
			d.config.Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic().Microseconds()))
			if err := d.reloadNow(ctx, ctx); err != nil {
				d.journal.Error(fmt.Sprintf("the configuration stays as it was: %v", err))
			}
			d.config.Notify("READY=1")
		case <-ctx.Done():
			return
		}
	}
}

// monotonic returns the time by the clock that systemd asks for.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// reloadNow reads the configuration again. If it is wrong, nothing has changed.
// It gives up when ask ends; what it starts runs until parts ends.
func (d *daemon) reloadNow(ask, parts context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	conf, err := d.config.Load()
	if err != nil {
		return err
	}
	before := d.current
	if before.Watch.State != conf.Watch.State {
		return errors.New("state in [watch] has changed: restart the watcher for that")
	}
	select {
	case d.reload <- d.watchConfig(conf):
	case <-ask.Done():
		return ask.Err()
	}
	d.mu.Lock()
	d.current = conf
	d.mu.Unlock()
	if !sameNotices(before, conf) {
		d.startNotices(parts, conf)
	}
	if before.Watch.Metrics != conf.Watch.Metrics {
		d.startMetrics(parts, conf)
	}
	for _, w := range conf.Warnings {
		d.journal.Warn(w.Error())
	}
	d.journal.Info("configuration read again", "file", conf.Source)
	return nil
}
