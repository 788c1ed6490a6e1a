package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/lastgood"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func applyCommand(p *cli) *cobra.Command {
	var check, dryRun, boot bool
	var confirm string
	var mode modeOptions
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "install or update the nftables table",
		Long: `Apply installs the table inet portmon as the configuration says, or changes what
differs, in one transaction. Bans stay, and no packet of a banned source slips
through. Applied again, it changes nothing; if it fails, nothing has changed. No
other table is touched. Without a configuration file it applies the built-in
default.

Bans and offences that were remembered (see portmon save) are put back into a
new table with the time they have left. A running watcher does that by itself,
and takes over the configuration.

With mode = "observe" in the configuration, or --observe, the table counts, logs
and lists whom it would ban, and drops nothing. Applied to enforce, it forgets
what was observed, unless --keep says that those who were are banned from now
on; bans from before, and those by hand, stay. The next apply, and the next
boot, go by the configuration again; a watcher keeps the table in the mode that
was applied.

With --check the exit code is 3 if the kernel holds something else.

What was applied is kept as the last good configuration. With --boot, as the
units of the packages call it, a configuration with a fault does not leave the
host without a table: the last good one is applied in its place, or without one
the built-in default; what is wrong is reported, and the exit code is 2.

With --confirm it is applied on trial, for a minute or as long as you say, such
as --confirm=5m: unless you type yes, or run portmon confirm, the table is put
back exactly as it was, with its bans and the time they had left, also if the
connection, the terminal or this program is gone. Until it is confirmed it does
not count as good, and a reboot comes up with what did before.`,
		Example: `  # see what would change, have nft check it, and then do it
  portmon apply --dry-run
  portmon apply --dry-run | nft --check --file -
  portmon apply --confirm`,
		Args: func(cmd *cobra.Command, args []string) error {
			if _, err := text.ParseDuration(strings.Join(args, ""), minTrial, maxTrial); err == nil && cmd.Flags().Changed("confirm") {
				return &usageError{hinted{fmt.Errorf("apply takes no arguments: unexpected %q", args[0]), "write --confirm=" + args[0]}}
			}
			return errors.Join(noArgs(cmd, args), noTwoOf(cmd, "check", "dry-run", "boot", "confirm"),
				noTwoOf(cmd, "check", "keep"), noTwoOf(cmd, "observe", "keep"))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if check {
				return p.applyCheck(mode)
			}
			length, err := text.ParseDuration(confirm, minTrial, maxTrial)
			if err != nil {
				return &usageError{hinted{fmt.Errorf("--confirm %s: %w", confirm, err), "see portmon apply --help"}}
			}
			load := p.loadConfig
			if boot {
				load = func() (*config.Config, route.Facts, error) { return p.loadAtBoot(true) }
			}
			conf, facts, fault := load()
			if conf == nil {
				return fault
			}
			if err := mode.choose(&conf.Spec); err != nil {
				return usage(cmd, "%w", err)
			}
			p.checkPlaces(conf)
			c, err := p.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			if dryRun {
				return p.applyDryRun(c, conf, facts)
			}
			if err := p.checkWatcher(conf); err != nil {
				return err
			}
			a := attempt{conf: conf, facts: facts, boot: boot}
			if fault != nil {
				return cmp.Or(p.apply(c, a), error(exitCodeError(exitUsage)))
			}
			a.good = &lastgood.Config{Spec: p.written, Names: conf.Names, At: p.now().UTC(), File: conf.Source}
			a.good.Spec.Observe = conf.Spec.Observe
			if cmd.Flags().Changed("confirm") {
				return p.tryOut(c, a, length)
			}
			return p.apply(c, a)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "change nothing; report what differs, and exit 3 if anything does")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false,
		"change nothing; write the table, and as comments what would change")
	cmd.Flags().BoolVar(&boot, "boot", false, "if the configuration has a fault, apply the last good one, and exit 2")
	cmd.Flags().StringVar(&confirm, "confirm", "60s", "put all back unless confirmed within `TIME`, or a minute")
	cmd.Flags().Lookup("confirm").NoOptDefVal = "60s"
	cmd.Flags().Lookup("confirm").DefValue = "" // without the flag there is no trial
	cmd.Flags().BoolVar(&mode.observe, "observe", false, "drop nothing, whatever the configuration says")
	cmd.Flags().BoolVar(&mode.keep, "keep", false, "when the table is to enforce from now on, ban those who were observed")
	return cmd
}

// attempt is what is to be applied, and how.
type attempt struct {
	conf  *config.Config
	facts route.Facts
	boot  bool
	good  *lastgood.Config // what becomes the last good configuration; nil: it stays
	trial *lastgood.Trial  // good only does when this is confirmed
}

// applyPatience is how long an apply waits for another one.
const applyPatience = 10 * time.Second

// holdAgain is how often the watcher hears that the table is still being
// changed: well within the ten seconds for which it believes that.
const holdAgain = 3 * time.Second

func (p *cli) apply(c *nftset.Conn, a attempt) error {
	conf := a.conf
	store, err := lastgood.Open(p.state, applyPatience)
	if err != nil && a.trial != nil {
		return err
	} else if err != nil && a.good != nil {
		p.warn("the configuration will not be kept as the last good one: %v", err)
	} else if err == nil {
		defer store.Close()
	}
	switch locked := errors.Is(err, folder.ErrLocked); {
	case a.boot && store != nil:
		_ = p.failTrial(store) // what it tried is not in force any more
	case a.trial != nil:
		err = p.checkOwnTrial(a.trial)
	case !a.boot && (store != nil || locked):
		err = checkTrial(p.state)
	default:
		err = nil // what was tried here cannot be known
	}
	if err != nil && !a.boot {
		return err
	}
	w, _ := p.runningWatcher()
	if w != nil {
		defer w.Close()
	}
	release := p.hold(w)
	p.letStay(c, &conf.Spec)
	since := book.ReadClock().Boot
	r, err := ruleset.Apply(c, conf.Spec)
	release()
	if w != nil {
		var applied *ruleset.Spec
		if err == nil {
			applied = &conf.Spec
		}
		if failed := w.Reload(applied); failed != nil && err == nil {
			return &hinted{
				fmt.Errorf("the table is applied, but the watcher may undo that, as it goes on with its configuration: %w", failed),
				runApply + " again",
			}
		}
	}
	if err != nil {
		return err
	}
	first := false
	if store != nil && a.good != nil && a.trial == nil {
		before, err := lastgood.Good(p.state)
		first = err == nil && before == nil && !a.boot
		if err := store.Confirm(a.good); err != nil {
			p.warn("the configuration is not kept as the last good one: %v", err)
		}
	}
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		return fmt.Errorf("the table is installed, but cannot be read: %w", err)
	}
	switch {
	case r.Empty():
		p.print("inet %s: nothing to change\n", tableName)
	case r.Created:
		p.print("inet %s: installed, %s\n", tableName, summary(&conf.Spec))
	default:
		p.print("inet %s: changed: %s\n", tableName, cmp.Or(strings.Join(r.Summary(), ", "), "bans"))
	}
	if err := p.reportMode(h, r, conf); err != nil {
		return err
	}
	if r.Created && conf.Spec.Grace > 0 {
		p.note("traps are armed in %s, so that services can start", text.Duration(conf.Spec.Grace))
	}
	if w == nil {
		switch put, err := p.restore(h, &conf.Spec, r, since); {
		case put && err != nil:
			p.warn("what other programs lift can come back: %v", err)
		case err != nil:
			p.warn("remembered bans are not put back: %v", err)
		}
		p.count(h, r.Created)
	}
	p.adviseOn(h, r, conf, a.facts)
	if _, ssh := p.sshPeer(); ssh && first {
		p.hint("next time, `portmon apply --confirm` takes the change back if it locks you out")
	}
	return nil
}

// checkWatcher returns an error if the watcher goes by another configuration
// file: it would undo what is applied.
func (p *cli) checkWatcher(conf *config.Config) error {
	w, s := p.runningWatcher()
	if w == nil {
		return nil
	}
	w.Close()
	ours, its := cmp.Or(conf.Source, config.DefaultPath), cmp.Or(s.Config, config.DefaultPath)
	a, errA := os.Stat(ours)
	b, errB := os.Stat(its)
	if ours == its || errA == nil && errB == nil && os.SameFile(a, b) {
		return nil
	}
	what := func(file string) string { return cmp.Or(file, "the built-in default") }
	return &hinted{
		fmt.Errorf("%s is not applied: the watcher, pid %d, goes by %s, and would undo it", what(conf.Source), s.PID, what(s.Config)),
		fmt.Sprintf("apply that; or stop the watcher first, and start it again with --config %s", strconv.Quote(ours)),
	}
}

// hold has a watcher leave the table alone until the returned function is called,
// a minute at most, and then for as long as a reload may take.
func (p *cli) hold(w watcher) (release func()) {
	if w == nil {
		return func() {}
	}
	if err := w.Applying(); err != nil {
		p.warn("the watcher may undo this: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(holdAgain)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = w.Applying() // whether it is left alone, the reload shows
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		_ = w.Applying()
	}
}

// summary says what a configuration is about: "44 TCP and 0 UDP trap ports, 5
// closed ports make a scan, ladder 10m 8h 30d".
func summary(s *ruleset.Spec) string {
	var ladder []string
	for _, d := range s.BanTime {
		ladder = append(ladder, text.Duration(d))
	}
	scan := "scans not counted"
	if n := s.Scan.Ports; n > 0 {
		scan = text.Plural(n, "closed port") + " make a scan"
		if n == 1 {
			scan = "any closed port makes a scan"
		}
	}
	return fmt.Sprintf("%d TCP and %d UDP trap ports, %s, ladder %s",
		countPorts(s.TrapTCP), countPorts(s.TrapUDP), scan, strings.Join(ladder, " "))
}

// applyCheck reports whether there is anything to apply, as status does.
func (p *cli) applyCheck(mode modeOptions) error {
	r, err := p.report(mode)
	if err != nil {
		return err
	}
	r.printForce(&p.ui)
	if !r.asConfigured() {
		return exitCodeError(exitNotInForce)
	}
	return nil
}

// applyDryRun writes the table as nft reads it, and as a comment before it what
// would change.
func (p *cli) applyDryRun(c *nftset.Conn, conf *config.Config, facts route.Facts) error {
	r, err := ruleset.Prepare(c, conf.Spec)
	if err != nil {
		return err
	}
	heading := "nothing would change"
	if !r.Empty() {
		heading = "this would change: " + r.String()
	}
	p.print("# inet %s: %s\n", tableName, heading)
	if !r.Created {
		p.print("# do not load this: the bans would be lost, which `portmon apply` keeps\n")
	}
	_ = r.Write(p.out) // what cannot be written is reported when the rest is flushed
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		return err
	}
	p.adviseOn(h, r, conf, facts)
	return nil
}
