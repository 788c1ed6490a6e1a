package names

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// follower is Names with a clock.
type follower struct {
	*testing.T
	Names
	now time.Time
}

func follow(t *testing.T, names ...string) *follower {
	f := &follower{T: t, now: time.Now()}
	f.Configure(names)
	return f
}

// asked lets time pass, and returns what is asked then.
func (f *follower) asked(after time.Duration) (all []Question) {
	f.Helper()
	f.now = f.now.Add(after)
	for range 2 * MaxNames {
		q, ok, idle := f.Next(f.now)
		if !ok {
			if idle <= 0 {
				f.Errorf("there is nothing to ask, but for %v", idle)
			}
			return all
		}
		all = append(all, q)
	}
	return all
}

// wantAsked fails the test unless these questions are asked after so long, and
// none before.
func (f *follower) wantAsked(after time.Duration, want ...Question) {
	f.Helper()
	if early := f.asked(after - time.Nanosecond); early != nil {
		f.Errorf("%v were asked in less than %v", early, after)
	}
	if diff := cmp.Diff(want, f.asked(time.Nanosecond)); diff != "" {
		f.Errorf("asked after %v (-want +got):\n%s", after, diff)
	}
}

func (f *follower) answer(ipv6 bool, ttl time.Duration, text ...string) {
	f.OnAnswer(Question{home, ipv6}, Answer{Addrs: addrs(text...), TTL: ttl}, f.now)
}

func (f *follower) fail(ipv6 bool, err error) {
	f.OnAnswer(Question{home, ipv6}, Answer{Err: err}, f.now)
}

// want fails the test unless these addresses of home count.
func (f *follower) want(text ...string) {
	f.Helper()
	var got []netip.Addr
	for _, s := range f.Status() {
		got = append(got, s.Addrs...)
	}
	slices.SortFunc(got, netip.Addr.Compare)
	if want := addrs(text...); !slices.Equal(got, want) {
		f.Errorf("%v count, want %v", got, want)
	}
}

var v4, v6 = Question{home, false}, Question{home, true}

func TestTTLIsFollowed(t *testing.T) {
	f := follow(t, home)
	if diff := cmp.Diff([]Question{v4, v6}, f.asked(0)); diff != "" {
		t.Fatalf("at the start (-want +got):\n%s", diff)
	}
	if early := f.asked(time.Hour); early != nil {
		t.Errorf("%v were asked again before there was an answer", early)
	}
	f.answer(false, 5*time.Minute, "203.0.113.7")
	f.answer(true, 7*time.Minute, "2001:db8::7")
	f.want("203.0.113.7", "2001:db8::7")
	f.wantAsked(5*time.Minute, v4)
	f.answer(false, 10*time.Minute, "203.0.113.7")
	f.wantAsked(2*time.Minute, v6)
}

// A new address counts at once, and the one that it replaces until the next
// answer lacks it too.
func TestChangedAnswer(t *testing.T) {
	f := follow(t, home)
	f.asked(0)
	f.answer(false, time.Minute, "203.0.113.7")
	f.asked(time.Minute)
	f.answer(false, time.Minute, "203.0.113.8")
	f.want("203.0.113.7", "203.0.113.8")
	if s := f.Status()[0]; !s.Since.Equal(f.now) || s.Err != nil {
		t.Errorf("%+v", s)
	}
	f.asked(time.Minute)
	f.answer(false, time.Minute, "203.0.113.8")
	f.want("203.0.113.8")

	// One that is in every second answer stays.
	for range 4 {
		f.asked(time.Minute)
		f.answer(false, time.Minute, "203.0.113.9")
		f.asked(time.Minute)
		f.answer(false, time.Minute, "203.0.113.8")
		f.want("203.0.113.8", "203.0.113.9")
	}
}

// Failures take nothing away, and are followed by ever fewer questions, until
// one is answered.
func TestFailuresKeepTheLastAnswer(t *testing.T) {
	broken := errors.New("broken")
	for name, err := range map[string]error{"broken": broken, "no address": nil} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, home)
			f.asked(0)
			f.answer(true, 1000*time.Hour, "2001:db8::7")
			f.answer(false, time.Minute, "203.0.113.7")
			f.asked(time.Minute)
			for _, wait := range []time.Duration{5, 10, 20, 40, 80, 160, 300, 300, 300} {
				f.fail(false, err)
				f.want("203.0.113.7", "2001:db8::7")
				f.wantAsked(wait*time.Second, v4)
			}
			if s := f.Status()[0]; s.Err != err || err != nil && s.Failures != 9 || err == nil && s.Failures != 0 {
				t.Errorf("%+v: want the error %v", s, err)
			}
			f.answer(false, time.Minute, "203.0.113.7")
			if s := f.Status()[0]; s.Err != nil {
				t.Errorf("after a good answer: %v", s.Err)
			}
			f.asked(time.Minute)
			f.fail(false, broken)
			f.wantAsked(5*time.Second, v4)
		})
	}
}

// A name without any address is a failure; one without IPv6, or IPv4, is not.
func TestNoAddress(t *testing.T) {
	for _, first := range []bool{false, true} {
		f := follow(t, home)
		f.asked(0)
		f.fail(first, ErrNoAddress)
		if s := f.Status()[0]; s.Err != nil || s.Failures != 0 {
			t.Errorf("without one: %+v", s)
		}
		f.fail(!first, ErrNoAddress)
		if s := f.Status()[0]; s.Err != ErrNoAddress || s.Failures != 1 {
			t.Errorf("without either: %+v", s)
		}
	}
}

// However many addresses an answer has, a name has eight: the same, whatever
// their order, and of both families.
func TestManyAddressesAreBounded(t *testing.T) {
	f := follow(t, home)
	f.asked(0)
	many := func(from, to int) (a Answer) {
		a.TTL = time.Minute
		for i := from; i != to; i += (to - from) / max(to-from, from-to) {
			a.Addrs = append(a.Addrs, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
		}
		return a
	}
	f.OnAnswer(v4, many(0, 200), f.now)
	f.want("203.0.113.0", "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7")
	f.OnAnswer(v4, many(199, -1), f.now)
	f.want("203.0.113.0", "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7")
	f.answer(true, time.Minute, "2001:db8::7")
	f.want("203.0.113.0", "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5", "203.0.113.6", "2001:db8::7")

	// Answers that are others all the time leave no more behind.
	f.OnAnswer(v4, many(100, 150), f.now)
	if n, kept := len(f.Status()[0].Addrs), len(f.hosts[0].ipv4.answer); n != MaxAddrs || kept != MaxAddrs {
		t.Errorf("%d addresses count, and %d are kept", n, kept)
	}
}

func TestConfigure(t *testing.T) {
	f := follow(t, home, "other.example.org")
	if n := len(f.asked(0)); n != 4 {
		t.Errorf("%d questions, want 4", n)
	}
	f.answer(false, time.Hour, "203.0.113.7")
	f.Configure([]string{"new.example.org", home})
	f.want("203.0.113.7")
	if diff := cmp.Diff([]Question{{"new.example.org", false}, {"new.example.org", true}}, f.asked(0)); diff != "" {
		t.Errorf("after a name was added (-want +got):\n%s", diff)
	}
	f.Configure(nil)
	f.want()
	f.answer(true, time.Hour, "2001:db8::7")
	f.want()
	if _, ok, idle := f.Next(f.now); ok || idle <= 0 {
		t.Error("there is something to ask")
	}
}
