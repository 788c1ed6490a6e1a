package ruleset

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

// TestOffend has another program tell of offences, beside those that the packet
// path sees: one ladder for both.
func TestOffend(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src, bystander := l.source(f), l.source(f)
		other := src.Next() // of IPv6, the same source
		for step := 1; step <= 4; step++ {
			want := min(step, len(spec.BanTime))
			byProgram := step%2 == 1
			if byProgram {
				put, refused, err := l.open().Offend([]netip.Addr{src}, "sshd: too many failures")
				if err := errors.Join(append(refused, err)...); err != nil {
					l.T.Fatal(err)
				}
				if len(put) != 1 || put[0].Source.String() != cidr(banOf(src)) || put[0].Step != want || put[0].Timeout != spec.BanTime[want-1] || !put[0].Banned {
					l.T.Errorf("offence %d put %+v", step, put)
				}
			} else {
				l.Offend(src)
			}
			l.Cut(src)
			if f.is6() {
				l.Cut(other)
			} else {
				l.Served(other)
			}
			l.Served(bystander)
			b := l.bans()[banOf(src)]
			d := spec.BanTime[want-1]
			if b.Step != want || b.Timeout != d || b.Remaining > d || b.Remaining < d-lab.Patience {
				l.T.Errorf("offence %d: the ban is %s, want %v by step %d", step, b.text(), d, want)
			}
			if wantCause := map[bool]Cause{true: CauseOther, false: CauseTrap}[byProgram]; b.Cause != wantCause {
				l.T.Errorf("offence %d: the cause is %q, want %q", step, b.Cause, wantCause)
			}
			if reason, _ := Offence(b.Comment); byProgram && reason != "sshd: too many failures" {
				l.T.Errorf("offence %d: the comment is %q", step, b.Comment)
			}
			if st := l.lookup(src); st.StepRemaining > spec.memoryTime(want) || st.StepRemaining < spec.memoryTime(want)-lab.Patience {
				l.T.Errorf("offence %d is remembered for %v, want %v", step, st.StepRemaining, spec.memoryTime(want))
			}
			// The ban ends, and is not forgiven.
			l.NFT("flush set inet portmon " + f.ban())
			l.Served(src)
		}
	})
}

// TestOffendLeavesAlone whom it need not, or cannot, ban.
func TestOffendLeavesAlone(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, spec)
	l.ban(time.Hour, "198.51.100.0/24", "2001:db8:2::/48")
	l.Offend(addr("198.51.101.1"), addr("2001:db8:1:1::1"))
	addrs := []netip.Addr{
		addr("198.51.100.1"), addr("198.51.101.1"), addr("2001:db8:2:2::2"), addr("2001:db8:1:1::2"), // banned
		addr("10.0.0.1"), addr("fe80::1"), addr("127.0.0.1"), // whitelisted
		addr("224.0.0.1"), addr("ff02::1"),
		addr("203.0.113.1"), addr("2001:db8:3:3::3"), // the only ones that can be
		addr("2001:db8:3:3::4"), addr("::ffff:203.0.113.1"), // which are the same
	}
	put, refused, err := l.open().Offend(addrs, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range addrs {
		var whitelisted *WhitelistedError
		var source *SourceError
		switch {
		case i >= 4 && i < 7:
			if !errors.As(refused[i], &whitelisted) {
				t.Errorf("%v: got %v, want *WhitelistedError", a, refused[i])
			}
		case i >= 7 && i < 9:
			if !errors.As(refused[i], &source) {
				t.Errorf("%v: got %v, want *SourceError", a, refused[i])
			}
		case refused[i] != nil:
			t.Errorf("%v: %v", a, refused[i])
		}
	}
	for _, r := range put {
		if s := r.Source.String(); s != "203.0.113.1/32" && s != "2001:db8:3:3::/64" || r.Step != 1 {
			t.Errorf("%v was put by step %d", r.Source, r.Step)
		}
	}
	l.wantBans("198.51.100.0/24", "198.51.101.1", "2001:db8:1:1::/64", "2001:db8:2::/48", "203.0.113.1", "2001:db8:3:3::/64")
	l.Cut(addr("203.0.113.1"), addr("2001:db8:3:3::9"))
	if got := l.step("203.0.113.1"); got != 1 {
		t.Errorf("one offence counts as %d", got)
	}
	l.families(func(l *fixture, f family) { l.Served(l.source(f)) })
}
