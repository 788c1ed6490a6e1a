package notice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config says where notices go. Without Ntfy and Command they go nowhere.
type Config struct {
	// Ntfy is the http or https URL of an ntfy topic; empty for none.
	Ntfy string
	// TokenFile holds the access token for it; empty for none. It is read each
	// time.
	TokenFile string

	// Command is the absolute path of a program, and its arguments; empty for
	// none.
	Command []string

	// Host is the name of this host, for people; it may be empty.
	Host string

	// Window is the time in which there is at most one notice; 0 means a
	// minute.
	Window time.Duration

	// Report, unless nil, gets what went wrong. The goroutines of Run call it,
	// one at a time, and send nothing until it returns. Of a notice it gets at
	// most two errors: one when it will be tried again, and one when it was
	// given up.
	Report func(error)
}

// Sender gathers events and sends notices of them.
type Sender struct {
	ntfy, command *channel // nil if it is not wanted
}

// New returns a Sender, which sends nothing until it runs. The error says what
// is wrong with the Config.
func New(config Config) (*Sender, error) {
	if config.Window < 0 {
		return nil, fmt.Errorf("send notices once in %v: want no negative time", config.Window)
	}
	var reporting sync.Mutex
	plan := plan{
		host:   printable(config.Host, maxName),
		window: cmp.Or(config.Window, time.Minute),
		report: func(err error) {
			if config.Report != nil {
				reporting.Lock()
				defer reporting.Unlock()
				config.Report(err)
			}
		},
	}
	s := new(Sender)
	if config.Ntfy != "" {
		topic, err := url.Parse(config.Ntfy)
		if err != nil || topic.Scheme != "http" && topic.Scheme != "https" || topic.Host == "" {
			// The URL is not shown: the topic is all that one must know to read
			// it.
			return nil, errors.New("send notices to ntfy: not the http or https URL of a topic")
		}
		s.ntfy = newChannel(plan, newNtfy(topic, config.TokenFile).send)
	}
	if len(config.Command) > 0 {
		if path := config.Command[0]; !filepath.IsAbs(path) || strings.ContainsRune(strings.Join(config.Command, ""), 0) {
			return nil, fmt.Errorf("send notices by %q: not an absolute path and its arguments", path)
		}
		s.command = newChannel(plan, (&command{config.Command, commandTimeout}).send)
	}
	return s, nil
}

// Tell queues events. It never blocks, and the memory in which events
// wait has an end: what cannot be kept in full is counted.
func (s *Sender) Tell(events ...Event) {
	for _, c := range s.channels() {
		if c != nil {
			c.tell(events)
		}
	}
}

// Run sends until the context ends, and then tries once more, for some seconds
// in all, to send what waits.
func (s *Sender) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range s.channels() {
		if c != nil {
			running.Go(func() { c.run(ctx) })
		}
	}
	<-ctx.Done()
	running.Wait()
}

func (s *Sender) channels() [2]*channel { return [...]*channel{s.ntfy, s.command} }

// Stats counts what became of events, since the beginning. What is not
// configured has only zeros.
type Stats struct{ Ntfy, Command ChannelStats }

// ChannelStats are the Stats of one way to send notices.
type ChannelStats struct {
	Sent    uint64 // notices
	Failed  uint64 // notices given up
	Dropped uint64 // events, in the notices given up
	Waiting int    // events that wait now, or are being sent
}

// Stats returns the counters, and may be called at any time.
func (s *Sender) Stats() Stats { return Stats{s.ntfy.stats(), s.command.stats()} }
