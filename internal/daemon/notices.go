package daemon

import (
	"context"
	"fmt"
	"slices"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/watch"
)

// notices are a sender that runs, and the configuration that it was made of.
type notices struct {
	*notice.Sender
	of   *config.Watch
	stop func()
}

// startNotices sends notices as a configuration says, in place of what was sent
// before.
func (d *daemon) startNotices(parts context.Context, conf *config.Config) {
	w := conf.Watch
	sender, err := notice.New(notice.Config{
		Ntfy: w.Ntfy, TokenFile: w.NtfyTokenFile, Command: w.Command, Host: d.config.Host,
		Report: func(err error) { d.journal.Warn(fmt.Sprintf("send a notice: %v", err)) },
	})
	if err != nil {
		d.journal.Warn(fmt.Sprintf("no notices: %v", err))
		return
	}
	ctx, cancel := context.WithCancel(parts)
	d.parts.Go(func() { sender.Run(ctx) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.notices != nil {
		d.notices.stop()
	}
	d.notices = &notices{sender, &conf.Watch, cancel}
}

// sameNotices reports whether two configurations send the same to the same.
func sameNotices(a, b *config.Config) bool {
	return a.Watch.Ntfy == b.Watch.Ntfy && a.Watch.NtfyTokenFile == b.Watch.NtfyTokenFile && slices.Equal(a.Watch.Command, b.Watch.Command)
}

func (n *notices) tell(news []watch.News, steps int, now book.Clock) {
	if n == nil {
		return
	}
	events := make([]notice.Event, len(news))
	for i := range news {
		events[i] = event(&news[i], steps, now)
	}
	n.Tell(events...)
}

func event(n *watch.News, steps int, now book.Clock) notice.Event {
	e := notice.Event{
		Kind: n.Kind, Prefix: n.Source, Cause: n.Cause.String(), Tier: n.Step, Last: n.Step == steps, Proto: n.Proto, Port: n.Port,
		Offences: n.Offences, Time: now.Wall, Forever: n.Forever, Reason: n.Comment, Wrong: n.What, Count: n.Count,
	}
	if n.Until != 0 {
		e.Until = now.Time(n.Until)
	}
	return e
}

// noticeStats returns what became of notices, by channel.
func (d *daemon) noticeStats() (sent, failed map[string]uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.notices == nil {
		return nil, nil
	}
	sent, failed = make(map[string]uint64), make(map[string]uint64)
	st, w := d.notices.Stats(), d.notices.of
	if w.Ntfy != "" {
		sent["ntfy"], failed["ntfy"] = st.Ntfy.Sent, st.Ntfy.Failed
	}
	if len(w.Command) > 0 {
		sent["command"], failed["command"] = st.Command.Sent, st.Command.Failed
	}
	return sent, failed
}
