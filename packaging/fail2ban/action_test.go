package fail2ban

import (
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

const (
	offender4, offender6 = "203.0.113.7", "2001:db8:5:6::7"
	prefix4, prefix6     = "203.0.113.7/32", "2001:db8:5:6::/64"
	bystander4           = "203.0.113.8"
	bystander6           = "2001:db8:5:7::7"
	prober, prefixProber = "203.0.113.9", "203.0.113.9/32"
	reason               = "fail2ban: door"

	byBantime = "action = %(known/action)s[mode=bantime]\n"
)

// trap makes a source offend against a trap of portmon's.
func (l *fixture) trap(source string) {
	l.T.Helper()
	l.Probe(netip.MustParseAddr(source), lab.TrapTCP)
	l.awaitCut(source)
}

func (l *fixture) wantBans(prefixes ...string) {
	l.T.Helper()
	bans := l.bans()
	for _, prefix := range prefixes {
		if _, ok := bans[prefix]; !ok {
			l.T.Errorf("%s is not banned: %v", prefix, bans)
		}
	}
	if len(bans) != len(prefixes) {
		l.T.Errorf("want bans of %v, here are %v", prefixes, bans)
	}
}

// A line in the log, and its source is dropped for as long as the jail says; nobody else is. Unbanned by hand, it is served again. The
// end of fail2ban lifts the bans that are its own.
func TestBantime(t *testing.T) {
	l := newLab(t, byBantime)
	l.start()
	l.trap(prober)
	if !l.served(offender4) || !l.served(offender6) {
		t.Error("who did nothing is not served")
	}
	l.knocked(200*time.Second, offender4, offender6)
	l.awaitCut(offender4, offender6)
	for _, prefix := range []string{prefix4, prefix6} {
		// fail2ban counts from the failure.
		if b := l.bans()[prefix]; b.Expires > 400 || b.Expires < 300 || b.Reason != reason {
			t.Errorf("%s: %+v", prefix, b)
		}
	}
	l.wantBans(prefix4, prefix6, prefixProber)
	if !l.served(bystander4) || !l.served(bystander6) {
		t.Error("bystanders are not served")
	}

	l.client("set", "door", "unbanip", offender4)
	l.awaitServed(offender4)
	l.wantBans(prefix6, prefixProber)
	l.knock(offender4)
	l.awaitCut(offender4)

	// Who is unbanned by portmon already can be unbanned by fail2ban without a fault.
	l.portmon("unban", offender6)
	l.client("set", "door", "unbanip", offender6)

	// Who is banned by fail2ban's own hand, and for ever.
	l.client("set", "door", "banip", bystander6, "198.51.100.0/24")
	l.awaitCut(bystander6, "198.51.100.1")
	l.client("set", "door", "bantime", "-1")
	l.client("set", "door", "banip", bystander4)
	l.awaitCut(bystander4)
	if b := l.bans()["203.0.113.8/32"]; !b.Until.IsZero() {
		t.Errorf("for ever is until %v", b.Until)
	}
	l.wantBans(prefix4, prefixProber, "2001:db8:5:7::/64", "198.51.100.0/24", "203.0.113.8/32")
	l.client("set", "door", "unbanip", bystander4)
	l.awaitServed(bystander4)

	l.end(syscall.SIGTERM)
	l.wantBans(prefixProber)
	l.awaitServed(offender4, bystander6, "198.51.100.1")
	l.faultless()
}

// A ban ends when the jail says, in the kernel and in fail2ban, and what portmon bans for another reason stays banned.
func TestEnd(t *testing.T) {
	l := newLab(t, byBantime+"bantime = 8s\n")
	l.start()
	l.trap(prober)
	l.knock(offender4, prober)
	l.awaitCut(offender4)
	l.awaitServed(offender4)
	lab.Await(l.T, "fail2ban has let go of both", func() bool { return strings.Count(l.log(), "] Unban ") == 2 })
	if b := l.bans()[prefixProber]; l.served(prober) || b.Expires < 300 {
		t.Errorf("the end of fail2ban's ban ended portmon's: %+v", b)
	}
	l.faultless()
}

// With bantime.increment, fail2ban makes a ban of a repeat offender longer after it has begun.
func TestIncrement(t *testing.T) {
	l := newLab(t, byBantime+"bantime = 6s\nbantime.increment = true\nbantime.multipliers = 1 3600\n")
	l.start()
	l.knock(offender4)
	l.awaitCut(offender4)
	l.awaitServed(offender4)
	lab.Await(l.T, "fail2ban has let go", func() bool { return strings.Contains(l.log(), "] Unban ") })
	l.knock(offender4)
	lab.Await(l.T, "the ban is one of hours", func() bool { return l.bans()[prefix4].Expires > 3600 })
	l.faultless()
}

// A whitelisted source is not banned, and is no trouble to the jail.
func TestWhitelisted(t *testing.T) {
	for _, mode := range []string{"ladder", "bantime"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t, "action = %(known/action)s[mode="+mode+"]\n")
			l.start()
			l.knock("10.1.2.3")
			l.knock(offender4)
			l.awaitCut(offender4)
			l.wantBans(prefix4)
			l.client("set", "door", "unbanip", "10.1.2.3")
			l.faultless()
		})
	}
}

// fail2ban is killed, the table is made anew, and fail2ban starts: what it remembers is banned for the time that was left. It is killed
// again, and what is banned still stays as it is.
func TestRestart(t *testing.T) {
	l := newLab(t, byBantime)
	l.start()
	l.knocked(200*time.Second, offender4, offender6)
	l.awaitCut(offender4, offender6)
	before := l.bans()
	lab.Await(l.T, "fail2ban remembers both", func() bool { return l.remembered() == 2 })
	l.end(syscall.SIGKILL)
	l.write("door.log", "") // which it would read again
	l.portmon("remove")
	l.portmon("apply")
	l.awaitServed(offender4)
	for round := range 2 {
		l.start()
		lab.Await(l.T, "both are restored", func() bool { return strings.Count(l.log(), "] Restore Ban ") == 2*(round+1) })
		l.awaitCut(offender4, offender6)
		for prefix, b := range l.bans() {
			if d := b.Until.Sub(before[prefix].Until).Abs(); d > 30*time.Second || b.Reason != reason {
				t.Errorf("%s: until %v, and before until %v, for %q", prefix, b.Until, before[prefix].Until, b.Reason)
			}
		}
		l.end(syscall.SIGKILL)
	}
	l.faultless()
}

// remembered returns how many bans fail2ban has in its file.
func (l *fixture) remembered() int {
	out, err := exec.Command("fail2ban-python", "-c",
		`import sqlite3, sys; print("x" * sqlite3.connect(sys.argv[1]).execute("select count(*) from bips").fetchone()[0])`,
		l.dir+"/fail2ban.sqlite3").Output()
	if err != nil {
		l.T.Logf("read fail2ban's file: %v", err)
	}
	return strings.Count(string(out), "x")
}

// Without a table, the start of the jail says so. A ban waits for a table that is away for a moment.
func TestNoTable(t *testing.T) {
	l := newLab(t, byBantime)
	l.portmon("remove")
	l.start()
	lab.Await(l.T, "the start says that there is no table", func() bool { return strings.Contains(l.log(), "no table inet portmon") })
	l.knock(offender4)
	lab.Await(l.T, "it waits for the table", func() bool { return strings.Contains(l.log(), "Invariant check failed") })
	l.portmon("apply")
	// On a busy machine an answer may be late, and look like none: who is unbanned before the ban is made stays banned.
	lab.Await(l.T, "the ban is made", func() bool { return len(l.bans()) == 1 })
	l.awaitCut(offender4)
	l.client("set", "door", "unbanip", offender4)
	l.awaitServed(offender4)
	if strings.Contains(l.log(), "Failed to execute ban") {
		t.Error("a ban was given up")
	}
	l.knock(offender6)
	l.awaitCut(offender6)
	l.portmon("remove") // there is nothing to unban any more, which is no error
	seen := len(l.log())
	l.client("set", "door", "unbanip", offender6)
	if log := l.log()[seen:]; strings.Contains(log, "ERROR") {
		t.Errorf("unban without a table: %s", log)
	}
}
