package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lastgood"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// A keeper puts the table back unless a trial is confirmed in time. It is a
// process of its own, so that it outlives the session that began the trial: the
// terminal, the shell and the connection.

// What a keeper says, a line each. Any other line is an error.
const (
	keeperReady     = "ready"     // it has a copy of the table
	keeperConfirmed = "confirmed" // the trial was confirmed
	keeperEnded     = "remove, or another apply, has ended the trial"
	keeperReverted  = "reverted" // the table is as it was
)

// keeperRequest is what a keeper is told.
type keeperRequest struct {
	State string
	Trial lastgood.Trial
}

// keeper is a keeper, as who started it sees it.
type keeper struct {
	*exec.Cmd
	says chan string // closed at its end
}

// startKeeper returns once the keeper has a copy of the table.
func startKeeper(r *keeperRequest) (*keeper, error) {
	k := &keeper{says: make(chan string, 4)}
	// Not os.Executable: the file may have been replaced, by an update.
	k.Cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"portmon", keeperName}, Dir: "/", Env: os.Environ(),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	requestIn, requestOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answerIn, answerOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, requestIn.Close(), requestOut.Close())
	}
	k.ExtraFiles = []*os.File{requestIn, answerOut}
	err = k.Start()
	requestIn.Close()
	answerOut.Close()
	if err == nil {
		err = json.NewEncoder(requestOut).Encode(r)
	}
	requestOut.Close()
	go func() {
		defer close(k.says)
		for lines := bufio.NewScanner(answerIn); lines.Scan(); {
			k.says <- lines.Text()
		}
		k.Wait()
	}()
	if err != nil {
		return nil, fmt.Errorf("start what is to put the table back: %w", err)
	}
	if said := <-k.says; said != keeperReady {
		return nil, fmt.Errorf("nothing is changed: %s", said)
	}
	return k, nil
}

const keeperName = "keep-trial"

func keeperCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use: keeperName, Short: "put the table back unless a trial is confirmed", Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			request, answer := os.NewFile(3, "request"), os.NewFile(4, "answer")
			if request == nil || answer == nil {
				return errors.New("this is for portmon apply --confirm")
			}
			unix.CloseOnExec(3)
			unix.CloseOnExec(4)
			say := func(s string) { fmt.Fprintln(answer, strings.ReplaceAll(s, "\n", "; ")) } // who asked may be dead
			said, err := p.keepTrial(request, say)
			if err != nil {
				said = err.Error()
			}
			say(said)
			return err
		},
	}
}

// keepTrial returns what became of a trial.
func (p *cli) keepTrial(request io.Reader, say func(string)) (string, error) {
	// A terminal that closes, and who types on it, end its session. SIGTERM
	// comes from who means this process, or the whole host.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGPIPE)
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	leaveSession()
	var r keeperRequest
	if err := json.NewDecoder(request).Decode(&r); err != nil {
		return "", fmt.Errorf("read what to put back: %w", err)
	}
	p.state = r.State
	c, err := p.dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	before, err := p.beginTrial(c, &r.Trial)
	if err != nil {
		return "", err
	}
	say(keeperReady)
	tick := time.NewTicker(50 * time.Millisecond) // also over a suspend, which stops no deadline
	defer tick.Stop()
	var seen fs.FileInfo
	for now := false; ; {
		// A whitelist in it can be large, so it is read only when it has changed.
		info, err := os.Lstat(lastgood.TrialFile(p.state))
		if err != nil || seen == nil || !os.SameFile(info, seen) || !info.ModTime().Equal(seen.ModTime()) {
			if said := p.ended(&r.Trial); said != "" {
				return said, nil
			}
			seen = info
		}
		if now || book.ReadClock().Boot >= r.Trial.Until {
			return p.revert(c, &r.Trial, before)
		}
		select {
		case <-tick.C:
		case <-term:
			now = true
		}
	}
}

// ended returns what a keeper says of a trial that is over before its time; ""
// if it is not. A file that is missing neither confirms nor ends it: there must
// be a last good configuration of this trial, or a later one.
func (p *cli) ended(t *lastgood.Trial) string {
	now, err := lastgood.ReadTrial(p.state)
	if err != nil || now != nil && now.ID == t.ID && now.Failed.IsZero() {
		return ""
	}
	switch good, err := lastgood.Good(p.state); {
	case err == nil && good != nil && good.Trial == t.ID:
		return keeperConfirmed
	case now != nil || err == nil && good != nil && !good.At.Before(t.Config.At):
		return keeperEnded
	}
	return ""
}

// leaveSession takes this process out of the control group of its session,
// which systemd ends with KillUserProcesses=yes. It needs root; who cannot gets
// a SIGTERM then, and puts the table back at once.
func leaveSession() {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		// Not os.WriteFile, which would make the file where control groups are
		// not mounted at root, but below it.
		if f, err := os.OpenFile(root+"/cgroup.procs", os.O_WRONLY, 0); err == nil {
			_, _ = f.WriteString("0\n")
			f.Close()
		}
	}
}

// copied is what a trial goes back to.
type copied struct {
	*nftset.Snapshot
	rows  *book.Book // nil if what is remembered is not about this host
	known bool       // the rows are about this very table
}

// beginTrial copies the table and what is remembered, and notes the trial.
func (p *cli) beginTrial(c *nftset.Conn, t *lastgood.Trial) (*copied, error) {
	store, err := lastgood.Open(p.state, applyPatience)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if err := checkTrial(p.state); err != nil {
		return nil, err
	}
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		return nil, err
	}
	before := new(copied)
	if before.Snapshot, err = c.Snapshot(h.Table); err != nil {
		return nil, fmt.Errorf("the table could not be put back: %w", err)
	}
	before.rows, before.known = p.remembered(h)
	return before, store.SetTrial(t)
}

// remembered returns what is remembered, and whether that is about this very
// table.
func (p *cli) remembered(h *ruleset.Handle) (rows *book.Book, known bool) {
	conf := p.bookConfig(h)
	if w, _ := p.runningWatcher(); w != nil {
		defer w.Close()
		if rows, err := w.Book(conf.MaxRows); err == nil {
			return rows, true
		}
	}
	if p.state == "" {
		return nil, false
	}
	rows, report, err := book.Read(conf)
	if err != nil || report.Origin != nil {
		return nil, false
	}
	return rows, report.Saved.SameTable(book.Of(h.State))
}

// revert puts all back as it was before a trial, unless that was confirmed. Another
// process that keeps the folder locked does not stop it: whether it has confirmed
// the trial can be seen without, and is looked at again afterwards.
func (p *cli) revert(c *nftset.Conn, t *lastgood.Trial, before *copied) (string, error) {
	store, err := lastgood.Open(p.state, applyPatience)
	if err == nil {
		defer store.Close()
	}
	if said := p.ended(t); said != "" {
		return said, nil
	}
	w, _ := p.runningWatcher()
	if w != nil {
		defer w.Close()
		_ = w.Swapping() // one that hangs is no reason to leave the table as it is
	} else {
		p.countTable(c)
	}
	failed := c.Restore(before.Snapshot, func(s *nftset.Set) bool {
		role, _ := ruleset.RoleOf(s.Name)
		return s.Flags&nftset.FlagDynamic == 0 || role.Bans() || role.Allows()
	})
	if failed != nil { // then at least by configuration
		failed = errors.Join(failed, p.applyGood(c))
	}
	if store != nil {
		t.Failed = p.now().UTC().Truncate(time.Second)
		err = store.SetTrial(t)
	} else if p.ended(t) != "" {
		err = errors.Join(err, errors.New("the trial was confirmed too late: apply the configuration again"))
	}
	if w != nil { // before it goes on
		err = errors.Join(err, w.Reload(nil))
	} else {
		p.countTable(c)
	}
	return keeperReverted, errors.Join(failed, err, p.remember(c, w, before))
}

// countTable is count, of whatever table there is.
func (p *cli) countTable(c *nftset.Conn) {
	if h, err := ruleset.Open(c, tableName); err == nil && h.Exists {
		p.count(h, false)
	}
}

// applyGood applies the last good configuration. Without one there was no table
// before the trial, or there would be none.
func (p *cli) applyGood(c *nftset.Conn) error {
	good, err := lastgood.Good(p.state)
	if err != nil {
		return err
	}
	if good == nil {
		_, err = ruleset.Remove(c, tableName)
		return err
	}
	_, _ = p.hostFacts(&good.Spec)
	_, err = ruleset.Apply(c, good.Spec)
	return err
}

// remember makes what is remembered what it was before a trial.
func (p *cli) remember(c *nftset.Conn, w watcher, before *copied) error {
	if before.rows == nil {
		return nil
	}
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		return err
	}
	table := uint64(0)
	if before.known {
		table = h.Handle
	}
	before.rows.SetObserves(h.Observe)
	if w != nil {
		return w.Swapped(h.Handle, before.rows)
	}
	return p.changeBook(h, true, func(b *book.Book, _ book.Report) error {
		b.Clear()
		for row := range before.rows.Rows() {
			b.Put(row)
		}
		b.SetTable(table)
		b.SetObserves(h.Observe)
		return nil
	})
}
