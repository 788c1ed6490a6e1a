package main

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func saveCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "save",
		Short: "remember the bans, so that they can be put back",
		Long: `Save writes all bans, and what is known of offences, to the file that the
configuration names in [watch]. After a reboot or a reload of nftables, portmon
apply puts the bans back with the time they have left.

A watcher that runs does this by itself, every minute and when it ends; then
save has it done at once. Without a table there is nothing to save, and the file
stays as it is.`,
		Example: `  # before all rules go, and after it
  portmon save
  nft flush ruleset
  portmon apply`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              noArgs,
		RunE: func(*cobra.Command, []string) error {
			conf, err := p.loadConfig()
			if err != nil {
				if conf, err = p.configInForce(err); err != nil {
					return err
				}
			}
			return p.save(conf)
		},
	}
}

func (p *cli) save(conf *config.Config) error {
	switch w, err := p.watcher(conf.Watch.State); {
	case err == nil:
		defer w.Close()
		if err := w.Save(); err != nil {
			return err
		}
		p.print("%s: saved by the watcher\n", conf.Watch.State)
		return nil
	case !errors.Is(err, control.ErrNone):
		return err
	}
	done, err := watch.Once(p.once(conf))
	switch {
	case err != nil:
		return err
	case !done:
		p.note("no table inet %s: nothing to save", tableName)
		return nil
	}
	n, err := remembered(conf.Watch.State)
	if err != nil {
		return err
	}
	p.print("%s: saved %s\n", conf.Watch.State, plural(n, "ban"))
	return nil
}

// configInForce makes do without a configuration, which is wrong as told by fault: to lose bans would be worse. It holds what can be
// read off the table, and the default for the rest.
func (p *cli) configInForce(fault error) (*config.Config, error) {
	conf := config.Default()
	c, err := p.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := ruleset.Read(c, tableName)
	if err != nil {
		return nil, err
	}
	if ladder := ladderOf(s); ladder != nil {
		conf.Spec.BanTime = ladder
	}
	if s.Prefix6 > 0 {
		conf.Spec.Prefix6 = s.Prefix6
	}
	p.fail(fault)
	p.warn("the configuration is wrong: saving what is in force, to %s", conf.Watch.State)
	return conf, nil
}

// ladderOf returns the tiers of a table.
func ladderOf(s *ruleset.State) (ladder []time.Duration) {
	for tier := 1; ; tier++ {
		set := s.Set(ruleset.BanSet(netip.IPv4Unspecified(), tier))
		if set == nil {
			return ladder
		}
		ladder = append(ladder, set.Timeout)
	}
}

// once returns what a pass without a watcher needs.
func (p *cli) once(conf *config.Config) watch.Config {
	return watch.Config{
		Spec: conf.Spec, Forget: conf.Spec.Forget, State: conf.Watch.State,
		Fault: func(err error) { p.warn("%v", err) },
	}
}

// remembered counts the bans in a state file.
func remembered(path string) (n int, err error) {
	f, err := state.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for rec := range f.Records() {
		if rec.Banned {
			n++
		}
	}
	return n, nil
}

// restore puts remembered bans into a table that is not the one that they were in. A watcher that runs does that, and has only to be
// told of the configuration.
func (p *cli) restore(c *nftset.Conn, conf *config.Config) {
	if w, err := p.watcher(conf.Watch.State); err == nil {
		defer w.Close()
		if err := w.Reload(); err != nil {
			p.warn("the watcher goes on with its configuration: %v", err)
		}
		return
	}
	path := conf.Watch.State
	f, err := state.Open(path)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		p.warn("bans are not put back: %v", err)
		return
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return
	}
	s, err := ruleset.Read(c, tableName)
	if err != nil {
		p.warn("bans are not put back: %v", err)
		return
	}
	if f.SameTable(state.Here(s.Handle)) {
		return
	}
	n := 0
	once := p.once(conf)
	once.News = func(news []watch.News) {
		for i := range news {
			if news[i].Kind == watch.Restored {
				n += news[i].Count
			}
		}
	}
	if _, err := watch.Once(once); err != nil {
		p.warn("put back bans: %v", err)
	}
	if n > 0 {
		p.print("inet %s: put back %s\n", tableName, plural(n, "ban"))
	}
}
