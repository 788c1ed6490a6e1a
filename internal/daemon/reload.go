package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/watch"
)

// reloads reads the configuration again for each signal from reload.
func (d *daemon) reloads(ctx context.Context, reload <-chan os.Signal) {
	// After a reload it reports that it is ready, so it must have been before.
	select {
	case <-d.isReady:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-reload:
			d.config.Notify("RELOADING=1\n" + sd.SdNotifyMonotonicUsec())
			if err := d.reloadNow(ctx, ctx, nil); err != nil {
				d.journal.Error(fmt.Sprintf("the configuration stays as it was: %v", err))
			}
			d.config.Notify("READY=1")
		case <-ctx.Done():
			return
		}
	}
}

// reloadNow reads the configuration again. If it is wrong, nothing changes. It
// gives up when ask ends; what it starts runs until parts ends. applied, unless nil,
// is how the table was applied just now.
func (d *daemon) reloadNow(ask, parts context.Context, applied *watch.Applied) error {
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
	wanted := d.watchConfig(conf)
	wanted.Applied = applied
	select {
	case d.reload <- wanted:
	case <-ask.Done():
		return ask.Err()
	}
	d.mu.Lock()
	d.current = conf
	d.mu.Unlock()
	select {
	case d.renamed <- struct{}{}:
	default: // that is known already
	}
	d.startPlaces(conf)
	d.startFleet(parts, conf)
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

// sameNotices reports whether two configurations send the same to the same.
func sameNotices(a, b *config.Config) bool {
	return a.Watch.Ntfy == b.Watch.Ntfy && a.Watch.NtfyTokenFile == b.Watch.NtfyTokenFile &&
		a.AbuseIPDBKeyFile == b.AbuseIPDBKeyFile &&
		slices.Equal(a.Watch.Command, b.Watch.Command)
}

// startNotices sends notices as a configuration says, in place of what was sent
// before.
func (d *daemon) startNotices(parts context.Context, conf *config.Config) {
	host := notice.Host{Name: d.config.Host, Places: &d.places, Proven: d.proven}
	sender := notice.New(conf, host, func(err error) { d.journal.Warn(fmt.Sprintf("send a notice or report: %v", err)) })
	ctx, cancel := context.WithCancel(parts)
	d.parts.Go(func() { sender.Run(ctx) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopNotices()
	sender.Continue(d.notices.Stats())
	d.notices, d.stopNotices = sender, cancel
	if file := conf.AbuseIPDBKeyFile; file != "" {
		d.journal.Info("offenders are reported to AbuseIPDB", "key_file", file)
	}
}
