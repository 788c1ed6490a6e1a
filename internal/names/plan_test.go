package names

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// allowance is what the table allows.
func allowance(prefix string, by ruleset.Cause, comment string, remaining time.Duration) (e ruleset.Entry) {
	e.Element = nftset.Prefix(netip.MustParsePrefix(prefix))
	e.Role, e.Cause, e.Comment, e.Remaining = ruleset.RoleAllow, by, comment, remaining
	return e
}

func byName(prefix string, remaining time.Duration) ruleset.Entry {
	return allowance(prefix, ruleset.CauseName, home, remaining)
}

func byHand(prefix string, remaining time.Duration) ruleset.Entry {
	return allowance(prefix, ruleset.CauseHand, "", remaining)
}

// source is by which prefix an address is banned by default, and addresses of
// 2001:db8:5::/48 by themselves.
func source(a netip.Addr) (netip.Prefix, error) {
	if a.Is4() || netip.MustParsePrefix("2001:db8:5::/48").Contains(a) {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return a.Prefix(64)
}

// wantPlan fails the test unless these prefixes are to be allowed and these
// allowances to end.
func (f *follower) wantPlan(have []ruleset.Entry, allow, end string) (again time.Duration) {
	f.Helper()
	p, err := f.Plan(have, source)
	if err != nil {
		f.Fatal(err)
	}
	intervals := func(text string) (ivs []nftset.Interval) {
		if text != "" {
			ivs = append(ivs, nftset.Prefix(netip.MustParsePrefix(text)).Interval)
		}
		return ivs
	}
	var allowed []nftset.Interval
	for _, r := range p.Allow {
		allowed = append(allowed, nftset.Prefix(r.Source).Interval)
		if !r.Allowed || r.Cause != ruleset.CauseName || r.Comment != home || r.Timeout != 25*time.Hour || r.Remaining != r.Timeout {
			f.Errorf("to be allowed: %+v", r)
		}
	}
	if !slices.Equal(allowed, intervals(allow)) || !slices.Equal(p.End, intervals(end)) {
		f.Errorf("%v are to be allowed and %v to end, want %q and %q", allowed, p.End, allow, end)
	}
	return p.Again
}

func TestPlan(t *testing.T) {
	f := follow(t, home)
	f.wantPlan(nil, "", "")
	other := allowance("203.0.113.9/32", ruleset.CauseName, "other.example.org", Keep)
	f.wantPlan([]ruleset.Entry{other, byHand("203.0.113.10/32", Keep)}, "", "203.0.113.9/32")

	f.answer(false, time.Minute, "203.0.113.7")
	f.wantPlan(nil, "203.0.113.7/32", "")
	f.wantPlan([]ruleset.Entry{byName("203.0.113.7/32", Keep)}, "", "")
	f.wantPlan([]ruleset.Entry{byName("203.0.113.7/32", Keep-time.Second)}, "203.0.113.7/32", "")

	f.fail(false, errors.New("broken"))
	f.wantPlan(nil, "", "") // nobody vouches for it any more: it ends when its time is over
	f.wantPlan([]ruleset.Entry{byName("203.0.113.7/32", time.Second)}, "", "")

	f.answer(false, time.Minute, "203.0.113.8")
	f.wantPlan([]ruleset.Entry{byName("203.0.113.7/32", Keep)}, "203.0.113.8/32", "")
	f.answer(false, time.Minute, "203.0.113.8")
	f.wantPlan([]ruleset.Entry{byName("203.0.113.7/32", Keep), byName("203.0.113.8/32", Keep)}, "", "203.0.113.7/32")

	f.Configure(nil)
	f.wantPlan([]ruleset.Entry{byName("203.0.113.8/32", Keep)}, "", "203.0.113.8/32")
}

// An address of IPv6 is allowed as it would be banned, but by no more than a /64.
func TestPlanIPv6(t *testing.T) {
	for addr, want := range map[string]string{"2001:db8::7": "2001:db8::/64", "2001:db8:5::7": "2001:db8:5::7/128"} {
		f := follow(t, home)
		f.answer(true, time.Minute, addr)
		f.wantPlan(nil, want, "")
		f.wantPlan([]ruleset.Entry{byName(want, Keep), byName("2001:db8:0:1::/64", Keep)}, "", "2001:db8:0:1::/64")
	}
	f := follow(t, home)
	f.answer(true, time.Minute, "2001:db8::7")
	p, err := f.Plan(nil, func(a netip.Addr) (netip.Prefix, error) { return a.Prefix(48) })
	if err != nil || p.Allow[0].Source != netip.MustParsePrefix("2001:db8::/64") {
		t.Errorf("where a /48 is banned: %+v, %v", p, err)
	}
}

// What was allowed before the watcher was started stays until there is an answer,
// and is given up by the second one without it.
func TestPlanRemembers(t *testing.T) {
	f := follow(t, home)
	have := []ruleset.Entry{byName("203.0.113.7/32", time.Hour), byName("2001:db8::/64", time.Hour)}
	f.wantPlan(nil, "", "") // the table may come later
	f.wantPlan(have, "", "")
	f.want("203.0.113.7", "2001:db8::")
	f.fail(false, errors.New("broken"))
	f.wantPlan(have, "", "")
	f.answer(false, time.Minute, "203.0.113.9")
	f.wantPlan(have, "203.0.113.9/32", "")
	f.answer(false, time.Minute, "203.0.113.9")
	f.wantPlan(append(have, byName("203.0.113.9/32", Keep)), "", "203.0.113.7/32")
	f.want("203.0.113.9", "2001:db8::")
}

// What others allow is left alone, and stands in for a name while it lasts.
func TestPlanBesideOthers(t *testing.T) {
	f := follow(t, home)
	f.answer(false, time.Minute, "203.0.113.7")
	if again := f.wantPlan([]ruleset.Entry{byHand("203.0.113.0/24", time.Hour)}, "", ""); again != time.Hour {
		t.Errorf("to be planned again in %v, want 1h", again)
	}
	if again := f.wantPlan([]ruleset.Entry{byHand("203.0.113.7/32", 0)}, "", ""); again != 0 {
		t.Errorf("to be planned again in %v, beside an allowance that does not end", again)
	}
	f.answer(true, time.Minute, "2001:db8::7")
	six := []ruleset.Entry{
		byName("2001:db8::8000:0:0:0/65", Keep), byHand("2001:db8::/66", 2*time.Hour), byName("2001:db8::4000:0:0:0/66", Keep),
		byHand("203.0.113.7/32", time.Hour),
	}
	if again := f.wantPlan(six, "", ""); again != time.Hour {
		t.Errorf("to be planned again in %v, want 1h", again)
	}
	f.wantPlan([]ruleset.Entry{six[0], six[1], six[3]}, "2001:db8::/64", "")
	f.Configure(nil)
	f.wantPlan(six[1:], "", "2001:db8:0:0:4000::/66")
}
