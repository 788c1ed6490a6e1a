package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lastgood"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// The shortest and the longest trial: time to open another connection, and a
// time after which nobody still looks.
const (
	minTrial = 5 * time.Second
	maxTrial = lastgood.MaxTrial
)

func confirmCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "keep a configuration that is on trial",
		Long: `Confirm keeps the configuration that portmon apply --confirm has applied, which
is taken back otherwise. It becomes the last good one.

Run it from a new connection: that you can open one is what there is to confirm.`,
		Example: `  portmon apply --confirm && portmon confirm || echo "nothing was on trial"`,
		Args:    noArgs,
		PreRunE: p.lookForState,
		RunE: func(*cobra.Command, []string) error {
			if p.stateErr != nil {
				return fmt.Errorf("nothing is confirmed, as it is not known where the trial is noted: %w", p.stateErr)
			}
			return p.confirm("")
		},
	}
}

// confirm makes the configuration that is on trial the last good one: in the
// trial with that ID, unless that is empty.
func (p *cli) confirm(id string) error {
	none := &hinted{errors.New("no configuration is on trial"), "`portmon apply --confirm` begins a trial"}
	if t, err := lastgood.ReadTrial(p.state); err != nil || t == nil {
		return errors.Join(err, none)
	}
	store, err := lastgood.Open(p.state, applyPatience)
	if err != nil {
		return err
	}
	defer store.Close()
	t, err := lastgood.ReadTrial(p.state)
	if err != nil {
		return err
	}
	if left, _ := t.Left(); left <= 0 || id != "" && t.ID != id {
		if t != nil && !t.Failed.IsZero() {
			return &hinted{
				fmt.Errorf("too late: the configuration was taken back at %s", t.Failed.In(p.now().Location()).Format(clockLayout)),
				"`portmon apply --confirm` tries it again",
			}
		}
		return none
	}
	if err := store.Confirm(&t.Config); err != nil {
		return err
	}
	p.print("inet %s: confirmed\n", tableName)
	return nil
}

// checkOwnTrial returns an error unless a trial that was begun goes on, or was
// confirmed already: nobody would take back what it tries.
func (p *cli) checkOwnTrial(t *lastgood.Trial) error {
	now, err := lastgood.ReadTrial(p.state)
	if err != nil {
		return err
	}
	left, _ := now.Left()
	said := p.ended(t)
	if left > 0 && now.ID == t.ID || said == keeperConfirmed {
		return nil
	}
	return &hinted{
		fmt.Errorf("nothing is applied: %s", cmp.Or(said, "the time of the trial was over before it could begin")),
		"`portmon apply --confirm` begins another one",
	}
}

// checkTrial returns an error while a trial goes on.
func checkTrial(state string) error {
	t, err := lastgood.ReadTrial(state)
	if err != nil {
		return err
	}
	if left, on := t.Left(); on {
		return &hinted{
			fmt.Errorf("a configuration is on trial for another %s", text.ShortDuration(max(left, time.Second))),
			"`portmon confirm` keeps it; or wait until it is taken back",
		}
	}
	return nil
}

// tryOut applies a configuration, and takes it back unless that is confirmed in
// time.
func (p *cli) tryOut(c *nftset.Conn, a attempt, length time.Duration) error {
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		return err
	}
	plan, err := ruleset.Prepare(c, a.conf.Spec)
	if err != nil {
		return err
	}
	before, err := lastgood.Good(p.state)
	if plan.Empty() && (before == nil || slices.Equal(before.Names, a.conf.Names)) { // there is nothing to take back
		return p.apply(c, a)
	}
	if err != nil || before == nil && h.Exists {
		return &hinted{
			errors.Join(errors.New("it is not known of what configuration the table is, which a watcher would have to go back to"), err),
			"apply the configuration that is in force once without --confirm",
		}
	}
	if err := checkTrial(p.state); err != nil { // the keeper asks again, with the folder locked
		return err
	}
	a.trial = lastgood.NewTrial(a.good, length)
	k, err := startKeeper(&keeperRequest{p.state, *a.trial})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if err := p.apply(c, a); err != nil {
		k.Process.Signal(unix.SIGTERM)
		for range k.says {
		}
		return err
	}
	p.note("on trial for %s: unless confirmed, all is put back as it was", text.Duration(length))
	var words <-chan string
	if in, ok := p.stdin.(*os.File); ok && width(in) > 0 {
		p.hint("open another connection; if that works, type yes and Enter here, or run `portmon confirm` there (^C puts back at once)")
		words = readLines(in)
	} else {
		p.hint("open another connection; if that works, run `portmon confirm`")
	}
	for {
		select {
		case word := <-words:
			switch strings.ToLower(strings.TrimSpace(word)) {
			case "y", "yes":
				return p.confirm(a.trial.ID)
			}
			p.note("yes keeps it, ^C puts all back")
		case <-signals:
			k.Process.Signal(unix.SIGTERM)
		case said, alive := <-k.says:
			switch {
			case said == keeperConfirmed:
				p.print("inet %s: confirmed\n", tableName)
				return nil
			case said == keeperReverted:
				return errors.New("not confirmed: all is as it was before")
			case alive:
				return fmt.Errorf("not confirmed, but: %s", said)
			}
			what, err := p.goBack(c)
			if err != nil {
				return fmt.Errorf("the keeper of the trial was killed, and what it tried is perhaps still in force: %w", err)
			}
			return &hinted{fmt.Errorf("the keeper of the trial was killed: %s", what), "`portmon status` shows what is in force"}
		}
	}
}

// goBack ends a trial without a keeper, and says what is in force then.
func (p *cli) goBack(c *nftset.Conn) (what string, err error) {
	w, _ := p.runningWatcher()
	if w != nil {
		defer w.Close()
	}
	release := p.hold(w)
	what = "the last good configuration is in force, with the bans of the trial"
	good, err := lastgood.Good(p.state)
	if err == nil && good == nil {
		if what = "the table is removed, as there was none before"; w != nil {
			err = w.Removing()
		}
	}
	err = errors.Join(err, p.endTrial(), p.applyGood(c))
	release()
	if w != nil {
		err = errors.Join(err, w.Reload(nil))
	}
	return what, err
}

// readLines returns what is typed. It is not to be ended, and need not be: the
// program ends.
func readLines(in *os.File) <-chan string {
	lines := make(chan string)
	go func() {
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

// endTrial notes that a trial that goes on, if there is one, has failed: what it
// tried is not in force any more.
func (p *cli) endTrial() error {
	if t, err := lastgood.ReadTrial(p.state); err != nil || t == nil || !t.Failed.IsZero() {
		return err
	}
	store, err := lastgood.Open(p.state, applyPatience)
	if err != nil {
		return err
	}
	defer store.Close()
	return p.failTrial(store)
}

func (p *cli) failTrial(store *lastgood.Store) error {
	t, err := lastgood.ReadTrial(p.state)
	if err != nil || t == nil || !t.Failed.IsZero() {
		return err
	}
	t.Failed = p.now().UTC().Truncate(time.Second)
	return store.SetTrial(t)
}
