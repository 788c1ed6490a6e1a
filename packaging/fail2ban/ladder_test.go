package fail2ban

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

// configure changes portmon's configuration and puts it in force.
func (l *fixture) configure(lines string) {
	l.T.Helper()
	l.write("portmon.toml", l.settings(lines))
	l.portmon("apply")
}

// watch starts a watcher that runs until the end of the test.
func (l *fixture) watch() {
	l.T.Helper()
	watcher := l.command(func(c *exec.Cmd) error {
		c.Stdout, c.Stderr = l.T.Output(), l.T.Output()
		return c.Start()
	}, l.program(), "watch", "--config", filepath.Join(l.dir, "portmon.toml"))
	l.T.Cleanup(func() {
		_ = watcher.Process.Signal(syscall.SIGTERM)
		_ = watcher.Wait()
	})
	lab.Await(l.T, "the watcher runs", func() bool {
		var status struct{ Watcher struct{ Running bool } }
		if err := json.Unmarshal([]byte(l.portmon("status", "--json")), &status); err != nil {
			l.T.Fatal(err)
		}
		return status.Watcher.Running
	})
}

// offences returns how many are remembered.
func (l *fixture) offences(source string) (n int) {
	l.T.Helper()
	var why struct{ Offences int }
	if err := json.Unmarshal([]byte(l.portmon("why", "--json", source)), &why); err != nil {
		l.T.Fatal(err)
	}
	return why.Offences
}

// The jail's offenders climb the ladder: its second ban is of the second step. That fail2ban has forgotten or ended changes nothing;
// that somebody unbans by hand does.
func TestLadder(t *testing.T) {
	t.Run("without a watcher", func(t *testing.T) { testLadder(t, false) })
	t.Run("with a watcher", func(t *testing.T) { testLadder(t, true) })
}

func testLadder(t *testing.T, watched bool) {
	l := newLab(t, "bantime = 5s\n")
	l.configure("[ban]\nbantime = [\"6s\", \"1h\"]\n")
	if watched {
		l.watch()
	}
	l.start()
	released := func(n int) {
		t.Helper()
		lab.Await(l.T, "fail2ban has let go", func() bool { return strings.Count(l.log(), "] Unban ") == n })
	}
	second := func(prefix string) {
		t.Helper()
		lab.Await(l.T, prefix+" is in the second tier", func() bool { return l.bans()[prefix].Tier == 2 })
		if b := l.bans()[prefix]; b.Expires < 3000 || b.Expires > 3600 || !strings.HasSuffix(b.Reason, reason) {
			t.Errorf("%s: %+v", prefix, b)
		}
	}
	l.knock(offender4, offender6)
	l.awaitCut(offender4, offender6)
	l.awaitServed(offender4, offender6)
	released(2)
	l.knock(offender6)
	second(prefix6)
	released(3)
	if l.served(offender6) {
		t.Error("the end of fail2ban's ban ended portmon's")
	}

	l.client("set", "door", "bantime", "10m")
	l.knock(offender4)
	second(prefix4)
	l.client("set", "door", "unbanip", offender4)
	l.awaitServed(offender4)
	if four, six := l.offences(offender4), l.offences(offender6); four != 0 || six != 2 {
		t.Errorf("offences are %d and %d, want 0 and 2", four, six)
	}

	l.end(syscall.SIGTERM)
	l.wantBans(prefix6)
	if !l.served(bystander4) || !l.served(bystander6) {
		t.Error("bystanders are not served")
	}
	l.faultless()
}

// What a jail and what a trap hold against a source adds up, in either order, with no watcher.
func TestOneLadder(t *testing.T) {
	l := newLab(t, "bantime = 5s\n")
	l.configure("[ban]\nbantime = [\"6s\", \"1h\"]\n")
	l.start()
	l.trap(prober)
	l.knock(offender4)
	l.awaitCut(offender4)
	l.awaitServed(prober, offender4)
	l.knock(prober)
	l.trap(offender4)
	lab.Await(l.T, "both are in the second tier", func() bool {
		bans := l.bans()
		return bans[prefixProber].Tier == 2 && bans[prefix4].Tier == 2
	})
	l.faultless()
}

// Prefixes and bans for ever have no place on a ladder.
func TestLadderByHand(t *testing.T) {
	l := newLab(t, "")
	l.start()
	l.client("set", "door", "banip", "198.51.100.0/24")
	l.client("set", "door", "bantime", "-1")
	l.client("set", "door", "banip", offender4)
	l.awaitCut(offender4, "198.51.100.1")
	if b := l.bans()[prefix4]; !b.Until.IsZero() || b.Reason != reason {
		t.Errorf("for ever: %+v", b)
	}
	if b := l.bans()["198.51.100.0/24"]; b.Expires > 600 || b.Expires < 500 || b.Reason != reason {
		t.Errorf("the prefix: %+v", b)
	}
	l.client("set", "door", "unbanip", "198.51.100.0/24", offender4)
	l.awaitServed(offender4, "198.51.100.1")
	l.faultless()
}

// On a ladder, fail2ban must not think that somebody is banned who is not. Its start says so if that could be.
func TestLadderTooShort(t *testing.T) {
	l := newLab(t, "bantime = 1d\n")
	l.start()
	lab.Await(l.T, "the start says so", func() bool {
		return strings.Contains(l.log(), "bantime 86400 is longer than the first step of the ladder, 600 s")
	})
	l.knock(offender4)
	l.awaitCut(offender4)
}
