// Package notice notifies people of what the watcher reports: through ntfy, by
// running a command, or both.
//
// The first news after a quiet time is sent one second later, together with
// what else happened in that second. After that at most one notice a minute is
// sent. Its title counts events by kind, the most urgent first, and its message
// describes the last five:
//
//	web1: 1 escalated, 240 banned
//	203.0.113.7 escalated to tier 2, banned for 8h after 2 offences: tcp/23
//	198.51.100.77 banned for 10m: tcp/445
//	...
//	and 236 more
//
// Nothing else is kept of what waits, so that no sender of packets can make it
// grow. The priority is the highest of any event: 4 (high) for a full set or
// a deleted table; 2 (low) for bans below the last step of the ladder; 3
// (default) for the rest.
//
// To ntfy the message is posted, with X-Title, X-Priority and X-Tags. The token
// is read from its file for each attempt, so that it can be replaced. Redirects
// are not followed, because they would carry it along. HTTPS_PROXY, HTTP_PROXY
// and NO_PROXY apply. If the network fails, the token cannot be read, or the
// server answers 408, 429 or 5xx, there are five more attempts within four
// minutes, or as late as Retry-After asks for, within 15 minutes each; other
// answers are final.
//
// The command runs once per notice, without a shell, in the directory /, with
// nothing on stdin and stdout discarded, and never two at a time. After 30
// seconds it is killed with its process group. It is not run again if it fails.
// Its environment is PATH, a few variables of the watcher, and [Variables].
//
// Offenders are reported to AbuseIPDB one by one, see reporter, with the same
// care for its key as for a token.
package notice

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
)

const (
	// lastAttempt is how long sending may go on after the context has ended.
	lastAttempt = 5 * time.Second
	// maxRetryAfter is the longest pause that a server can ask for.
	maxRetryAfter = 15 * time.Minute
)

// backoff are the pauses between attempts.
var backoff = []time.Duration{2 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute}

// Sender gathers news and sends notices of it, and reports offenders.
type Sender struct {
	channels []*channel
	reporter *reporter // nil if nothing is reported
}

// Host is what a Sender needs of the host.
type Host struct {
	Name   string  // may be ""
	Places *geo.DB // says where sources are
	// Proven reports whether a source is banned, has probed MinPorts ports, and
	// may be reported. It asks the kernel.
	Proven func(*watch.News) (bool, error)
}

// New returns a Sender of notices and reports as a configuration says. It sends
// nothing until it runs. Fault is called for each that will be tried again and
// for each that is given up, by several goroutines.
func New(conf *config.Config, host Host, fault func(error)) *Sender {
	s := new(Sender)
	add := func(name string, send func(context.Context, *notice) error) {
		s.channels = append(s.channels, &channel{
			name: name, send: send, report: fault, host: clean(host.Name, maxName), places: host.Places,
			gathering: time.Second, window: time.Minute, wake: make(chan struct{}, 1),
		})
	}
	w := &conf.Watch
	if w.Ntfy != "" {
		add("ntfy", newNtfy(w.Ntfy, w.NtfyTokenFile).send)
	}
	if len(w.Command) > 0 {
		add("command", (&command{w.Command, commandTimeout}).send)
	}
	if conf.AbuseIPDBKeyFile != "" {
		s.reporter = &reporter{
			url: abuseURL, keyFile: conf.AbuseIPDBKeyFile, folder: filepath.Dir(w.State), client: newClient(),
			proven: host.Proven, report: fault, backoff: backoff, queue: make(chan event, maxQueued),
		}
	}
	return s
}

// Tell queues what happened at a time, on a ladder. It does not block.
func (s *Sender) Tell(news []watch.News, ladder []time.Duration, now book.Clock) {
	for _, c := range s.channels {
		c.add(news, len(ladder), now)
	}
	if s.reporter != nil {
		s.reporter.tell(news, ladder, now)
	}
}

// Run sends until ctx ends, and then what waits: at once, in one attempt that
// may take 5 seconds.
func (s *Sender) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range s.channels {
		running.Go(func() { c.run(ctx) })
	}
	if s.reporter != nil {
		running.Go(func() { s.reporter.run(ctx) })
	}
	running.Wait()
}

// Stats counts notices. Those that were given up have Failed.
type Stats struct{ Sent, Failed uint64 }

// Stats returns the counters of "ntfy", "command" and "abuseipdb", if they are
// configured.
func (s *Sender) Stats() map[string]Stats {
	all := make(map[string]Stats)
	for _, c := range s.channels {
		all[c.name] = Stats{c.sent.Load(), c.failed.Load()}
	}
	if r := s.reporter; r != nil {
		all["abuseipdb"] = Stats{r.sent.Load(), r.failed.Load()}
	}
	return all
}

// Continue counts on from what another Sender has counted.
func (s *Sender) Continue(before map[string]Stats) {
	for _, c := range s.channels {
		c.sent.Add(before[c.name].Sent)
		c.failed.Add(before[c.name].Failed)
	}
	if r := s.reporter; r != nil {
		r.sent.Add(before["abuseipdb"].Sent)
		r.failed.Add(before["abuseipdb"].Failed)
	}
}

// temporaryError is a failure that another attempt may not meet.
type temporaryError struct {
	error
	after time.Duration // what the server asked for; 0 if it did not
}

func (e *temporaryError) Unwrap() error { return e.error }

// channel is one way of sending notices. Each gathers its own news, so that one
// that hangs does not delay the other.
type channel struct {
	name, host string
	places     *geo.DB
	send       func(context.Context, *notice) error
	report     func(error)
	gathering  time.Duration // how long the first news waits for more
	window     time.Duration // the least time between two notices
	wake       chan struct{} // has room for one: there is news

	mu      sync.Mutex
	waiting digest

	sent, failed atomic.Uint64
}

func (c *channel) add(news []watch.News, steps int, now book.Clock) {
	if len(news) == 0 {
		return
	}
	c.mu.Lock()
	for _, n := range news {
		c.waiting.add(event{News: n, at: now}, steps)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *channel) run(ctx context.Context) {
	sending, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastAttempt, func() { cancel(errEnded) }) })()
	var next time.Time
	for ended := false; !ended; {
		// If it ends during a delivery, there may be more news by then.
		ended = ctx.Err() != nil
		select {
		case <-c.wake:
			sleep(ctx, max(c.gathering, time.Until(next)))
		case <-ctx.Done():
		}
		c.mu.Lock()
		d := c.waiting
		c.waiting = digest{}
		c.mu.Unlock()
		if d.total > 0 {
			next = time.Now().Add(c.window)
			c.deliver(ctx, sending, d.compose(c.host, c.places))
		}
	}
}

// deliver sends a notice.
func (c *channel) deliver(ctx, sending context.Context, n *notice) {
	attempts, err := try(ctx, backoff, c.report, func() error { return c.send(sending, n) })
	if err == nil {
		c.sent.Add(1)
		return
	}
	c.failed.Add(1)
	c.report(fmt.Errorf("%w (attempt %d, given up: %s not sent)", err, attempts, text.Plural(n.count, "event")))
}

// try sends something, and returns how often it was tried. Failures that may
// pass are tried again, with these pauses, until ctx has ended, and then once
// more at once. The first is reported, unless it is the last.
func try(ctx context.Context, pauses []time.Duration, report func(error), send func() error) (attempts int, err error) {
	for attempt := 1; ; attempt++ {
		last := attempt > len(pauses) || ctx.Err() != nil
		err := send()
		var temporary *temporaryError
		if !errors.As(err, &temporary) || last {
			return attempt, err
		}
		if attempt == 1 {
			report(fmt.Errorf("%w (will be tried again)", err))
		}
		sleep(ctx, max(pauses[attempt-1], min(temporary.after, maxRetryAfter)))
	}
}

// sleep returns when d has passed or ctx has ended.
func sleep(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}
