package daemon

import (
	"context"
	"fmt"
	"slices"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/notice"
)

// notices are a sender that runs.
type notices struct {
	*notice.Sender
	stop func()
}

// startNotices sends notices as a configuration says, in place of what was sent
// before.
func (d *daemon) startNotices(parts context.Context, conf *config.Config) {
	sender := notice.New(&conf.Watch, d.config.Host, func(err error) { d.journal.Warn(fmt.Sprintf("send a notice: %v", err)) })
	ctx, cancel := context.WithCancel(parts)
	d.parts.Go(func() { sender.Run(ctx) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.notices != nil {
		d.notices.stop()
	}
	d.notices = &notices{sender, cancel}
}

// sameNotices reports whether two configurations send the same to the same.
func sameNotices(a, b *config.Config) bool {
	return a.Watch.Ntfy == b.Watch.Ntfy && a.Watch.NtfyTokenFile == b.Watch.NtfyTokenFile && slices.Equal(a.Watch.Command, b.Watch.Command)
}

// noticeStats counts notices by channel.
func (d *daemon) noticeStats() map[string]notice.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.notices.Stats()
}
