package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// TestBanByHand bans, and sends packets from both sides of what is banned.
func TestBanByHand(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Whitelist = []netip.Prefix{prefix("198.51.100.0/25"), prefix("2001:db8:5::/48")}
	type bans map[string]time.Duration // by set and what is banned, 0 for ever
	for _, tt := range []struct {
		name    string
		before  bans // prefixes that are banned already
		ban     string
		d       time.Duration
		want    bans
		refused string // why, in place of want
		in, out []string
	}{
		{"address", nil, "203.0.113.7/32", time.Hour, bans{"ban4 203.0.113.7": time.Hour}, "",
			[]string{"203.0.113.7"}, []string{"203.0.113.8"}},
		{"network of IPv6", nil, "2001:db8:1:1::/64", time.Hour, bans{"ban6 2001:db8:1:1::/64": time.Hour}, "",
			[]string{"2001:db8:1:1:f::1", "2001:db8:1:1::"}, []string{"2001:db8:1:2::1"}},
		{"address of IPv6", nil, "2001:db8:1:1::7/128", time.Hour, bans{"ban6 2001:db8:1:1::7": time.Hour}, "",
			[]string{"2001:db8:1:1::7"}, []string{"2001:db8:1:1::8"}},
		{"address that stands for a network", nil, "2001:db8:1:1::/128", time.Hour, bans{"net6 2001:db8:1:1::": time.Hour}, "",
			[]string{"2001:db8:1:1::"}, []string{"2001:db8:1:1::1"}},
		{"prefix", nil, "203.0.113.0/24", time.Hour, bans{"net4 203.0.113.0/24": time.Hour}, "",
			[]string{"203.0.113.0", "203.0.113.255"}, []string{"203.0.112.255", "203.0.114.0"}},
		{"prefix of IPv6", nil, "2001:db8:1::/48", time.Minute, bans{"net6 2001:db8:1::/48": time.Minute}, "",
			[]string{"2001:db8:1:ffff::"}, []string{"2001:db8:2::"}},
		{"for ever", nil, "203.0.113.7/32", Forever, bans{"net4 203.0.113.7": 0}, "",
			[]string{"203.0.113.7"}, []string{"203.0.113.6"}},
		{"network of IPv6 for ever", nil, "2001:db8:1:1::/64", Forever, bans{"net6 2001:db8:1:1::/64": 0}, "",
			[]string{"2001:db8:1:1::"}, []string{"2001:db8:1:2::"}},
		{"longer than any step", nil, "203.0.113.7/32", 300 * 24 * time.Hour, bans{"ban4 203.0.113.7": 300 * 24 * time.Hour}, "",
			[]string{"203.0.113.7"}, []string{"203.0.113.6"}},
		{"around smaller ones", bans{"203.0.113.0/26": 2 * time.Hour, "203.0.113.64/26": 0, "203.0.114.0/24": time.Hour}, "203.0.113.0/24", 90 * time.Minute,
			bans{"net4 203.0.113.0/26": 2 * time.Hour, "net4 203.0.113.64/26": 0, "net4 203.0.113.128/25": 90 * time.Minute, "net4 203.0.114.0/24": time.Hour}, "",
			[]string{"203.0.113.1", "203.0.113.65", "203.0.113.200", "203.0.114.1"}, []string{"203.0.112.1", "203.0.115.1"}},
		{"around one that ends earlier", bans{"203.0.113.64/26": time.Minute}, "203.0.113.0/24", time.Hour, bans{"net4 203.0.113.0/24": time.Hour}, "",
			[]string{"203.0.113.1", "203.0.113.65"}, []string{"203.0.114.1"}},
		{"around one for ever", bans{"2001:db8:1:8000::/52": 0}, "2001:db8:1::/48", time.Hour,
			bans{"net6 2001:db8:1::/49": time.Hour, "net6 2001:db8:1:8000::/52": 0, "net6 2001:db8:1:9000::-2001:db8:1:ffff:ffff:ffff:ffff:ffff": time.Hour}, "",
			[]string{"2001:db8:1:1::1", "2001:db8:1:8001::1", "2001:db8:1:9001::1"}, []string{"2001:db8:2::1", "2001:db8:0:ffff::1"}},
		{"inside one that ends earlier", bans{"203.0.112.0/23": 2 * time.Hour}, "203.0.113.0/24", 3 * time.Hour,
			bans{"net4 203.0.112.0/24": 2 * time.Hour, "net4 203.0.113.0/24": 3 * time.Hour}, "",
			[]string{"203.0.112.1", "203.0.113.1"}, []string{"203.0.114.1", "203.0.111.1"}},
		{"inside one that lasts longer", bans{"203.0.112.0/23": 0}, "203.0.113.0/24", time.Hour, bans{"net4 203.0.112.0/23": 0}, "",
			[]string{"203.0.112.1", "203.0.113.1"}, []string{"203.0.114.1"}},
		{"again, shorter", bans{"203.0.113.0/24": 2 * time.Hour}, "203.0.113.0/24", time.Hour, bans{"net4 203.0.113.0/24": time.Hour}, "",
			[]string{"203.0.113.1"}, []string{"203.0.114.1"}},
		{"again, not for ever", bans{"203.0.113.0/24": 0}, "203.0.113.0/24", time.Hour, bans{"net4 203.0.113.0/24": time.Hour}, "",
			[]string{"203.0.113.1"}, []string{"203.0.114.1"}},
		{"again, for ever", bans{"2001:db8:1::/48": time.Hour}, "2001:db8:1::/48", Forever, bans{"net6 2001:db8:1::/48": 0}, "",
			[]string{"2001:db8:1::1"}, []string{"2001:db8:2::1"}},

		{"whitelisted", nil, "198.51.100.7/32", time.Hour, nil, "198.51.100.7 is whitelisted by 198.51.100.0/25", nil, []string{"198.51.100.7"}},
		{"whitelisted network", nil, "2001:db8:5:5::/64", Forever, nil, "2001:db8:5:5::/64 is whitelisted by 2001:db8:5::/48", nil, []string{"2001:db8:5:5::1"}},
		{"whitelisted in part", nil, "198.51.100.0/24", time.Hour, bans{"net4 198.51.100.0/24": time.Hour}, "", []string{"198.51.100.128"}, []string{"198.51.100.127"}},
		{"nobody", nil, "0.1.2.3/32", time.Hour, nil, "0.1.2.3 is whitelisted by 0.0.0.0/8", nil, nil},
		{"nobody of IPv6", nil, "::/128", time.Hour, nil, ":: is whitelisted by ::/127", nil, nil},
		{"loopback", nil, "127.0.0.1/32", time.Hour, nil, "127.0.0.1 is whitelisted by 127.0.0.0/8", nil, nil},
		{"multicast", nil, "224.0.0.251/32", time.Hour, nil, "224.0.0.251 is a multicast address", nil, nil},
		{"multicast of IPv6", nil, "ff02::/16", Forever, nil, "ff02::/16 is a multicast address", nil, nil},
		{"broadcast", nil, "255.255.255.255/32", time.Hour, nil, "255.255.255.255 is the broadcast address", nil, nil},
		{"everybody", nil, "0.0.0.0/0", time.Hour, nil, "0.0.0.0/0 is every address of its family", nil, []string{"203.0.113.1"}},
		{"everybody of IPv6", nil, "::/0", time.Hour, nil, "::/0 is every address of its family", nil, []string{"2001:db8:1::1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, spec)
			for p, d := range tt.before {
				if d == 0 {
					d = Forever
				}
				l.ban(d, p)
			}
			record := byHand(prefix(tt.ban), tt.d)
			refused, err := l.open().Put([]Record{record})
			if err != nil {
				t.Fatal(err)
			}
			if tt.refused != "" {
				var whitelisted *WhitelistedError
				var source *SourceError
				switch {
				case len(refused) != 1 || refused[0] == nil || refused[0].Error() != tt.refused:
					t.Errorf("got %q, want %q", refused, tt.refused)
				case errors.As(refused[0], &whitelisted) && whitelisted.Prefix != record.Source:
					t.Errorf("the error is about %v, want %v", whitelisted.Prefix, record.Source)
				case errors.As(refused[0], &source) && source.Prefix != record.Source:
					t.Errorf("the error is about %v, want %v", source.Prefix, record.Source)
				case whitelisted == nil && source == nil:
					t.Errorf("%T is not an error of this package", refused[0])
				}
			} else if refused != nil {
				t.Errorf("refused: %v", refused)
			}
			got := l.bans()
			for _, b := range got {
				d, ok := tt.want[b.Set+" "+b.Interval.String()]
				if !ok || b.Timeout != d || (b.Remaining-d).Abs() > lab.Patience || (b.Remaining == 0) != (d == 0) || b.Comment != "by hand" || b.Cause != CauseHand {
					t.Errorf("banned is %s, want %v", b.text(), tt.want)
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("%d bans, want %d", len(got), len(tt.want))
			}
			for _, a := range tt.in {
				l.Cut(addr(a))
			}
			for _, a := range tt.out {
				l.Served(addr(a))
			}
		})
	}
}

// TestBanByHandAgain renews a ban of the packet path, and those that it made
// itself: the last says how long.
func TestBanByHandAgain(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.families(func(l *fixture, f family) {
		src, bystander := l.source(f), l.source(f)
		l.Offend(src)
		h := l.open()
		for i, d := range []time.Duration{time.Minute, 30 * 24 * time.Hour, time.Hour} {
			r := Record{Source: prefix(cidr(banOf(src))), Banned: true, Timeout: d, Remaining: d - 10*time.Second, Comment: fmt.Sprint(i)}
			if refused, err := h.Put([]Record{r}); refused != nil || err != nil {
				l.T.Fatal(refused, err)
			}
			b := l.bans()[banOf(src)]
			if b.Timeout != d || b.Remaining > r.Remaining || b.Remaining < r.Remaining-lab.Patience || b.Step != 1 || b.Cause != CauseHand || b.Comment != fmt.Sprint(i) {
				l.T.Errorf("banned again for %v, it is %s", d, b.text())
			}
			l.Cut(src)
			l.Served(bystander)
		}
	})
}

// TestPutGivesStepsAndCauses has records of all kinds in one call, refused ones
// among them.
func TestPutGivesStepsAndCauses(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Subnet4 = 8
	l := newTrap(t, spec)
	hour := Record{Banned: true, Timeout: time.Hour, Remaining: time.Minute}
	of := func(source string, r Record, step int, cause Cause) Record {
		r.Source, r.Step, r.Cause = prefix(source), step, cause
		if step > 0 {
			r.StepRemaining = time.Hour
		}
		return r
	}
	records := []Record{
		of("198.51.100.1/32", hour, 1, CauseTrap),
		of("10.0.0.1/32", hour, 1, CauseTrap), // whitelisted
		of("198.51.100.2/32", hour, 2, CauseScan),
		of("198.51.101.0/24", hour, 0, CauseSubnet),
		of("224.0.0.1/32", hour, 1, CauseTrap),
		of("198.51.100.3/32", hour, 0, CauseOther),
		of("2001:db8:1:1::/64", hour, 3, CauseTrap),
		of("2001:db8:2:2::2/128", hour, 1, CauseScan),
		of("2001:db8:3::/48", hour, 0, CauseSubnet),
		of("198.51.100.4/32", Record{}, 2, CauseScan), // known, and not banned
		of("2001:db8:4:4::/64", Record{}, 3, CauseTrap),
		of("fd00::1/128", Record{}, 3, CauseTrap),
	}
	refused, err := l.open().Put(records)
	if err != nil {
		t.Fatal(err)
	}
	if len(refused) != len(records) {
		t.Fatalf("%d answers to %d records", len(refused), len(records))
	}
	for i, r := range records {
		var whitelisted *WhitelistedError
		var source *SourceError
		switch r.Source.String() {
		case "10.0.0.1/32", "fd00::1/128":
			if !errors.As(refused[i], &whitelisted) {
				t.Errorf("%v: got %v, want a *WhitelistedError", r.Source, refused[i])
			}
		case "224.0.0.1/32":
			if !errors.As(refused[i], &source) {
				t.Errorf("%v: got %v, want a *SourceError", r.Source, refused[i])
			}
		default:
			if refused[i] != nil {
				t.Errorf("%v: %v", r.Source, refused[i])
			}
		}
	}
	bans := l.bans()
	for _, r := range records {
		what := nftset.Prefix(r.Source).Interval.String()
		b, banned := bans[what]
		if i := slices.Index(records, r); !r.Banned || refused[i] != nil {
			if banned {
				t.Errorf("%s is banned: %s", what, b.text())
			}
			continue
		}
		if !banned || b.Step != r.Step || b.Cause != r.Cause || b.Timeout != time.Hour || b.Remaining > time.Minute || b.Remaining < time.Minute-lab.Patience {
			t.Errorf("the ban of %s is %s, want step %d and cause %q", what, b.text(), r.Step, r.Cause)
		}
	}
	l.Cut(addr("198.51.100.1"), addr("198.51.101.9"), addr("2001:db8:1:1::9"), addr("2001:db8:2:2::2"), addr("2001:db8:3:9::9"))
	l.Served(addr("198.51.100.4"), addr("2001:db8:2:2::3"), addr("2001:db8:4:4::4"))
	// Who is known begins where he left off.
	l.Offend(addr("198.51.100.4"), addr("2001:db8:4:4::4"))
	for a, step := range map[string]int{"198.51.100.4": 3, "2001:db8:4:4::/64": 3} {
		if b := l.bans()[a]; b.Step != step || b.Timeout != spec.BanTime[step-1] {
			t.Errorf("the next ban of %s is %s, want step %d", a, b.text(), step)
		}
	}
}

// TestPutRenewsSteps gives a source another time to be remembered.
func TestPutRenewsSteps(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		for _, d := range []time.Duration{time.Hour, 100 * time.Hour, time.Minute} {
			l.put(Record{Source: prefix(cidr(banOf(src))), Step: 2, StepRemaining: d})
			st, err := l.open().Lookup(src)
			if err != nil || st.Step != 2 || st.StepRemaining > d || st.StepRemaining < d-lab.Patience {
				l.T.Errorf("step %d is remembered for %v, want step 2 for %v (%v)", st.Step, st.StepRemaining, d, err)
			}
		}
	})
}

// TestPutIntoAFullSet bans more than the set has room for, and who is in there
// already.
func TestPutIntoAFullSet(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Size = fullSize
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		inside, first, second, bystander := l.source(f), l.source(f), l.source(f), l.source(f)
		record := func(a netip.Addr) Record {
			return Record{
				Source: prefix(cidr(banOf(a))), Banned: true, Timeout: 720 * time.Hour, Remaining: time.Hour,
				Comment: "restored", Step: 2, StepRemaining: 100 * time.Hour,
			}
		}
		l.put(record(inside))
		l.fill(f.ban(), f, fullSize, 2) // one more, and that is all
		l.put(record(first), record(second), record(inside))
		l.Cut(inside, first, second)
		l.Served(bystander)
		bans := l.bans()
		for _, a := range []netip.Addr{inside, first, second} {
			if b := bans[banOf(a)]; b.Timeout != 720*time.Hour || b.Remaining > time.Hour || b.Remaining < time.Hour-lab.Patience || b.Comment != "restored" {
				l.T.Errorf("the ban of %v is %s", a, b.text())
			}
			if st, err := l.open().Lookup(a); err != nil || st.Step != 2 {
				l.T.Errorf("of %v step %d is remembered, want 2 (%v)", a, st.Step, err)
			}
		}
		// To renew one takes no room, and it must be as it is told.
		again := record(inside)
		again.Timeout, again.Remaining = time.Minute, time.Minute
		l.put(again)
		if got := l.lasts(inside.String()); got > time.Minute {
			l.T.Errorf("banned again for a minute, %v is banned for %v", inside, got)
		}
		l.Cut(inside)
		// Forgiven, it is free, whatever set it was in.
		for _, a := range []netip.Addr{first, second} {
			if _, _, err := l.open().Unban(prefix(cidr(banOf(a)))); err != nil {
				l.T.Fatal(err)
			}
		}
		l.Served(first, second)
	})
}

// TestPutManyIntoAFullSet puts more at once than goes into one transaction, and
// into the set: it takes what it has room for, but for the rest of one
// transaction, and all are banned.
func TestPutManyIntoAFullSet(t *testing.T) {
	t.Parallel()
	const n, held, size = 2*nftset.BatchSize + 5000, 1000, 12_000
	spec := trapSpec()
	spec.Size = size
	l := newTrap(t, spec)
	record := func(i int, d time.Duration) Record {
		a := netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)})
		return Record{Source: netip.PrefixFrom(a, 32), Banned: true, Timeout: d, Remaining: d, Comment: "by hand", Cause: CauseHand}
	}
	for _, first := range []int{held, 0} { // into a set that holds something, and again into one that is full
		var records []Record
		for i := range n {
			if i >= n-first {
				l.put(record(i, time.Hour))
			}
			records = append(records, record(i, 2*time.Hour))
		}
		l.put(records...)
		bans, in := l.bans(), 0
		for i := range n {
			b, banned := bans[record(i, 0).Source.Addr().String()]
			if !banned || b.Timeout != 2*time.Hour {
				t.Fatalf("the ban of %v is %s", record(i, 0).Source, b.text())
			}
			if b.Set == "ban4" {
				in++
			}
		}
		if in < size-nftset.BatchSize || in > size {
			t.Errorf("%d bans are in the set, which has room for %d", in, size)
		}
	}
	l.Cut(addr("203.0.0.1"), addr("203.0.50.1"))
	l.Served(addr("203.1.0.1"))
}

// TestPutMany gives 5,000 records at once, as a watcher does that comes back.
func TestPutMany(t *testing.T) {
	t.Parallel()
	const n = 5000
	l := newTrap(t, trapSpec())
	var records []Record
	for i := range n {
		r := Record{Banned: true, Timeout: time.Duration(1+i) * time.Hour, Remaining: time.Hour, Step: 1 + i%3, StepRemaining: 2 * time.Hour}
		switch i % 5 {
		case 0, 1:
			r.Source = netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 32)
		case 2, 3:
			r.Source = prefix(fmt.Sprintf("2001:db8:f:%x::/64", i))
		default:
			r.Source, r.Step = prefix(fmt.Sprintf("2001:db8:%x::/48", 0x2000+i)), 0
		}
		if i%1000 == 7 {
			r.Source = prefix(fmt.Sprintf("10.0.%d.%d/32", i>>8, i&255))
		}
		records = append(records, r)
	}
	h := l.open()
	for round := range 2 { // the second time, all are there
		var refused []error
		var err error
		if d := work(t, func() { refused, err = h.Put(records) }); d > lab.Patience {
			t.Errorf("it took %v", d)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range records {
			if want := i%1000 == 7; (refused[i] != nil) != want {
				t.Errorf("record %d: %v", i, refused[i])
			}
		}
		bans := l.bans()
		if len(bans) != n-n/1000 {
			t.Errorf("%d bans, want %d", len(bans), n-n/1000)
		}
		for _, r := range records {
			b, ok := bans[nftset.Prefix(r.Source).Interval.String()]
			if ok && (b.Timeout != r.Timeout || b.Remaining > r.Remaining || b.Remaining < r.Remaining-lab.Patience || b.Step != r.Step) {
				t.Fatalf("round %d: the ban of %v is %s", round, r.Source, b.text())
			}
		}
		for i := range records {
			records[i].Timeout, records[i].Remaining = records[i].Timeout/2+time.Hour, 30*time.Minute
		}
	}
	l.Cut(addr("203.0.0.1"), addr("203.0.16.15"), addr("2001:db8:f:2::2"), addr("2001:db8:2004:9::"), addr("2001:db8:3382::"))
	l.Served(addr("203.0.0.2"), addr("2001:db8:f:1::"), addr("2001:db8:2003::"))
}

// TestPutWithoutTable has none, or one that is gone.
func TestPutWithoutTable(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	for _, d := range []time.Duration{time.Hour, Forever} {
		if _, err := l.open().Put([]Record{byHand(prefix("198.51.100.1/32"), d)}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("where there is no table: got %v, want os.ErrNotExist", err)
		}
	}
	l.apply(trapSpec())
	h := l.open()
	if _, err := Remove(l.conn, "portmon"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{time.Hour, Forever} {
		if _, err := h.Put([]Record{byHand(prefix("198.51.100.1/32"), d)}); !errors.Is(err, unix.ENOENT) {
			t.Errorf("where the table is gone: got %v, want os.ErrNotExist", err)
		}
	}
	if _, err := l.open().Put(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nothing: got %v, want os.ErrNotExist", err)
	}
	if refused, err := newTrap(t, trapSpec()).open().Put(nil); refused != nil || err != nil {
		t.Errorf("nothing into a table: got %v, %v", refused, err)
	}
}

// TestPutIntoHalfATable has a table that somebody is still making.
func TestPutIntoHalfATable(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.NFT("add table inet portmon")
	for what, r := range map[string]Record{
		"a ban":           {Source: prefix("198.18.0.1/32"), Banned: true, Timeout: time.Hour, Remaining: time.Hour},
		"a ban of a /24":  {Source: prefix("198.18.0.0/24"), Banned: true, Timeout: time.Hour, Remaining: time.Hour},
		"a step":          {Source: prefix("198.18.0.1/32"), Step: 1, StepRemaining: time.Hour},
		"a ban of a /64":  {Source: prefix("2001:db8:1:1::/64"), Banned: true, Timeout: time.Hour, Remaining: time.Hour},
		"one for ever":    {Source: prefix("198.18.0.1/32"), Banned: true},
		"an unknown step": {Source: prefix("198.18.0.1/32"), Step: MaxSteps, StepRemaining: time.Hour},
	} {
		if _, err := l.open().Put([]Record{r}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: got error %v, want one of a set that is not there", what, err)
		}
	}
}
