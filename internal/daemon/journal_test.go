package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// desk is a journal that is written to memory, and a clock that goes when it is
// told to.
type desk struct {
	*journal
	t   testing.TB
	out bytes.Buffer
	now book.Clock
}

func newDesk(t testing.TB) *desk {
	d := &desk{t: t, now: book.Clock{Wall: time.Date(2026, 1, 18, 11, 4, 26, 0, time.UTC), Boot: book.Moment(time.Hour)}}
	d.journal = newJournal(newLogger(&d.out, false))
	return d
}

func (d *desk) pass(by time.Duration) {
	d.now.Wall, d.now.Boot = d.now.Wall.Add(by), d.now.Boot.Add(by)
}

// lines returns what was written since the last time.
func (d *desk) lines() []string {
	defer d.out.Reset()
	return strings.Split(strings.TrimSuffix(d.out.String(), "\n"), "\n")
}

// want fails the test unless these lines were written since the last time.
func (d *desk) want(want ...string) {
	d.t.Helper()
	got := d.lines()
	if len(want) == 0 {
		want = []string{""}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestLines(t *testing.T) {
	d := newDesk(t)
	in := func(by time.Duration) book.Moment { return d.now.Boot.Add(by) }
	for name, tt := range map[string]struct {
		news watch.News
		want string
	}{
		"ban": {
			watch.News{
				Kind: watch.Banned, Source: prefix("203.0.113.7/32"), Cause: ruleset.CauseTrap, Step: 1, Offences: 1, Proto: unix.IPPROTO_TCP, Port: 23,
				Until: in(8 * time.Hour),
			},
			`level=INFO msg=banned address=203.0.113.7 cause=trap tier=1 port=tcp/23 offences=1 until=2026-01-18T19:04:26Z`,
		},
		"escalation of a network": {
			watch.News{
				Kind: watch.Escalated, Source: prefix("2001:db8:1::/64"), Cause: ruleset.CauseScan, Step: 3, Offences: 12, Proto: unix.IPPROTO_UDP,
				Port: 53, Until: in(30 * 24 * time.Hour),
			},
			`level=INFO msg=escalated address=2001:db8:1::/64 cause=scan tier=3 port=udp/53 offences=12 until=2026-02-17T11:04:26Z`,
		},
		"by hand, for ever": {
			watch.News{Kind: watch.ByHand, Source: prefix("198.51.100.0/24"), Cause: ruleset.CauseHand, Forever: true, Comment: "abuse"},
			`level=INFO msg="banned by hand" address=198.51.100.0/24 cause=hand until=forever reason=abuse`,
		},
		"lifted": {
			watch.News{Kind: watch.Lifted, Source: prefix("2001:db8::7/128"), Step: 1, Offences: 2},
			`level=INFO msg=lifted address=2001:db8::7 tier=1 offences=2`,
		},
		"unbanned by hand, very many": {
			watch.News{Kind: watch.Unbanned, Source: prefix("203.0.113.0/24"), Count: 203}, `level=INFO msg="unbanned by hand" address=203.0.113.0/24 bans=203`,
		},
		"disallowed by hand, very many": {watch.News{Kind: watch.Disallowed, Count: 101}, `level=INFO msg="disallowed by hand" allowances=101`},
		"whitelisted": {
			watch.News{Kind: watch.Whitelisted, Source: prefix("203.0.113.7/32"), Cause: ruleset.CauseOther},
			`level=INFO msg=whitelisted address=203.0.113.7 cause=other`,
		},
		"restored":   {watch.News{Kind: watch.Restored, Count: 40}, `level=INFO msg=restored bans=40`},
		"full":       {watch.News{Kind: watch.Full, Count: 65536}, `level=WARN msg=full offences=65536`},
		"held back":  {watch.News{Kind: watch.HeldBack, Count: 5081}, `level=INFO msg="held back" offences=5081`},
		"repaired":   {watch.News{Kind: watch.Repaired, What: "chain guard, rules"}, `level=WARN msg=repaired wrong="chain guard, rules"`},
		"table gone": {watch.News{Kind: watch.TableGone}, `level=WARN msg="table gone"`},
		"removed":    {watch.News{Kind: watch.Removed}, `level=WARN msg=removed`},
		"a protocol without a port": {
			watch.News{Kind: watch.Banned, Source: prefix("203.0.113.8/32"), Step: 1, Offences: 1, Proto: 132},
			`level=INFO msg=banned address=203.0.113.8 tier=1 offences=1`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.news([]watch.News{tt.news}, d.now)
			d.want(tt.want)
		})
	}
}

// TestForgery has others write what would be a line or a field of its own.
func TestForgery(t *testing.T) {
	for _, text := range []string{
		"a\nlevel=INFO msg=banned address=192.0.2.1",
		"a\r\nlevel=INFO msg=lifted",
		"a until=forever", `a" until=forever x="`, `\" until=forever`, "until=forever", `=`, `"`, "\\",
		"\x1b[2J\x1b[31mred", "\x00", "\u2028level=INFO", "\u202ereversed", "\xff\xfe", "\u0085next", "", " ", "\t",
	} {
		t.Run(strconv.QuoteToASCII(text), func(t *testing.T) {
			d := newDesk(t)
			d.news([]watch.News{{Kind: watch.ByHand, Source: prefix("203.0.113.7/32"), Step: 1, Comment: text}}, d.now)
			want := []string{"level", "msg", "address", "tier"}
			if text != "" {
				want = append(want, "reason")
			}
			d.wantFields(want, "reason", text)
			d.faultAt(errors.New(text), d.now.Boot)
			d.wantFields([]string{"level", "msg"}, "msg", text)
			d.faultAt(errors.New(text), d.now.Boot)
			d.close()
			d.wantFields([]string{"level", "msg", "times"}, "msg", text)
		})
	}
}

// TestServerLog has a client make an HTTP server say something.
func TestServerLog(t *testing.T) {
	d := newDesk(t)
	log.New(d.journal, "", 0).Printf("http: bad request from %s", "a\nlevel=INFO msg=banned\x1b[2J")
	d.wantFields([]string{"level", "msg"}, "msg", "http: bad request from a\nlevel=INFO msg=banned\x1b[2J")
}

// wantFields fails the test unless one line was written that has exactly these
// fields, all of it to be seen, and the one with the value.
func (d *desk) wantFields(names []string, name, value string) {
	d.t.Helper()
	lines := d.lines()
	if len(lines) != 1 {
		d.t.Fatalf("%d lines, want 1: %q", len(lines), lines)
	}
	var got []string
	for rest := lines[0]; rest != ""; rest = strings.TrimPrefix(rest, " ") {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			d.t.Fatalf("no field: %q of %q", rest, lines[0])
		}
		v, after2, _ := strings.Cut(after, " ")
		if strings.HasPrefix(after, `"`) {
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				d.t.Fatalf("%v: %q", err, lines[0])
			}
			after2 = after[len(quoted):]
			if v, err = strconv.Unquote(quoted); err != nil {
				d.t.Fatal(err)
			}
		}
		got, rest = append(got, key), after2
		if key == name && v != value {
			d.t.Errorf("%s is %q, want %q", name, v, value)
		}
	}
	if diff := cmp.Diff(names, got); diff != "" {
		d.t.Errorf("fields of %q (-want +got):\n%s", lines[0], diff)
	}
	for _, r := range lines[0] {
		if !strconv.IsPrint(r) {
			d.t.Errorf("a terminal would obey %U in %q", r, lines[0])
		}
	}
}

// many returns n bans, each third of which is an escalation.
func many(n int) []watch.News {
	news := make([]watch.News, n)
	for i := range news {
		src := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)
		news[i] = watch.News{Kind: watch.Banned, Source: src, Step: 1, Offences: 1}
		if i%3 == 2 {
			news[i] = watch.News{Kind: watch.Escalated, Source: src, Step: 2, Offences: 2}
		}
	}
	return news
}

func TestBurst(t *testing.T) {
	d := newDesk(t)
	d.news(many(10_000), d.now)
	if n := len(d.lines()); n != burst {
		t.Errorf("%d lines of 10,000 news, want %d", n, burst)
	}
	d.flush(d.now.Boot)
	d.want() // there is no room yet
	d.pass(interval)
	d.flush(d.now.Boot)
	// Of the first 200, 66 are the third of three; of all 10,000 there are
	// 3,333.
	d.want(`level=INFO msg="left out" lines=9800 of="6533 banned, 3267 escalated"`)
	d.pass(time.Hour)
	d.flush(d.now.Boot)
	d.close()
	d.want() // it is told once
}

func TestLongRun(t *testing.T) {
	d := newDesk(t)
	d.news(many(burst), d.now)
	d.lines()
	const passed, step = 10 * time.Minute, 10 * time.Millisecond
	for range passed / step {
		d.pass(step)
		d.news(many(1), d.now)
		d.flush(d.now.Boot)
	}
	d.close()
	told, left := 0, 0
	for _, line := range d.lines() {
		if _, after, ok := strings.Cut(line, `msg="left out" lines=`); ok {
			n, _, _ := strings.Cut(after, " ")
			count, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			left += count
			continue
		}
		told++
	}
	if most := int(passed / interval); told > most || told < most/2-1 {
		t.Errorf("%d lines in %v, want some %d", told, passed, most)
	}
	if told+left != int(passed/step) {
		t.Errorf("%d told and %d left out, want %d in all", told, left, passed/step)
	}
}

func TestRoomComesBack(t *testing.T) {
	d := newDesk(t)
	d.news(many(burst), d.now)
	d.lines()
	d.pass(time.Hour)
	d.news(many(burst+1), d.now)
	if n := len(d.lines()); n != burst {
		t.Errorf("%d lines after an hour, want %d", n, burst)
	}
	d.close()
	d.want(`level=INFO msg="left out" lines=1 of="1 escalated"`)
}

func TestLeftOutComesBeforeTheNext(t *testing.T) {
	d := newDesk(t)
	d.news(many(burst+2), d.now)
	d.lines()
	d.pass(interval)
	d.news([]watch.News{{Kind: watch.Lifted, Source: prefix("203.0.113.7/32")}}, d.now)
	d.want(`level=INFO msg="left out" lines=2 of="1 banned, 1 escalated"`, `level=INFO msg=lifted address=203.0.113.7`)
}

func TestTableIsAlwaysTold(t *testing.T) {
	for kind, want := range map[watch.Kind]string{
		watch.TableGone: `level=WARN msg="table gone"`,
		watch.Removed:   `level=WARN msg=removed`,
		watch.Repaired:  `level=WARN msg=repaired`,
		watch.Restored:  `level=INFO msg=restored`,
		watch.Full:      `level=WARN msg=full`,
		watch.HeldBack:  `level=INFO msg="held back"`,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			d := newDesk(t)
			d.news(many(burst+1), d.now)
			d.lines()
			d.news([]watch.News{{Kind: kind}, {Kind: kind}}, d.now)
			d.want(`level=INFO msg="left out" lines=1 of="1 escalated"`, want, want)
		})
	}
}

func TestSameFault(t *testing.T) {
	d := newDesk(t)
	broken, other := errors.New("save the state: no space left on device"), errors.New("read table inet portmon: interrupted")
	line := `level=WARN msg="save the state: no space left on device"`
	d.faultAt(broken, d.now.Boot)
	d.want(line)
	for range 59 {
		d.pass(time.Second)
		d.faultAt(broken, d.now.Boot)
		d.flush(d.now.Boot)
	}
	d.want()
	d.faultAt(other, d.now.Boot) // is told in between, and does not make the first one new
	d.faultAt(broken, d.now.Boot)
	d.want(`level=WARN msg="read table inet portmon: interrupted"`)
	d.pass(time.Second)
	d.flush(d.now.Boot)
	d.want(line + " times=60")
	d.faultAt(broken, d.now.Boot)
	d.pass(again - 1)
	d.faultAt(broken, d.now.Boot)
	d.want()
	d.pass(1)
	d.faultAt(broken, d.now.Boot) // no Flush is needed for it to be told
	d.want(line + " times=2")
	d.close()
	d.want(line + " times=1")

	d = newDesk(t)
	d.faultAt(broken, d.now.Boot)
	d.want(line)
	d.pass(again)
	d.flush(d.now.Boot)
	d.want() // it came once
	d.faultAt(broken, d.now.Boot)
	d.want(line)
}

// The minute is that of each fault, whenever others come.
func TestFaultsOfDifferentMoments(t *testing.T) {
	d := newDesk(t)
	first, second := errors.New("first"), errors.New("second")
	d.faultAt(first, d.now.Boot)
	d.want("level=WARN msg=first")
	d.pass(again - time.Second)
	d.faultAt(second, d.now.Boot)
	d.want("level=WARN msg=second")
	d.pass(2 * time.Second)
	d.faultAt(second, d.now.Boot)
	d.flush(d.now.Boot)
	d.want()
	d.faultAt(first, d.now.Boot) // once a minute is over
	d.want("level=WARN msg=first")
	d.pass(again - 3*time.Second)
	d.flush(d.now.Boot)
	d.want()
	d.pass(time.Second)
	d.flush(d.now.Boot)
	d.want("level=WARN msg=second times=1")
}

func TestDifferentFaults(t *testing.T) {
	d := newDesk(t)
	flood := func(n int) {
		for i := range n {
			d.faultAt(fmt.Errorf("fault %d", i), d.now.Boot)
		}
	}
	flood(10_000)
	if lines := d.lines(); len(lines) != maxFaults || lines[maxFaults-1] != fmt.Sprintf(`level=WARN msg="fault %d"`, maxFaults-1) {
		t.Errorf("got %d lines, want %d", len(lines), maxFaults)
	}
	if len(d.faults) != maxFaults+1 {
		t.Errorf("%d faults are kept, want %d and all others", len(d.faults), maxFaults)
	}
	d.pass(again)
	d.flush(d.now.Boot)
	d.want(fmt.Sprintf(`level=WARN msg="other faults" times=%d`, 10_000-maxFaults))
	flood(2)
	d.want(`level=WARN msg="fault 0"`, `level=WARN msg="fault 1"`)
	flood(maxFaults + 1)
	d.lines()
	d.close()
	d.want(`level=WARN msg="fault 0" times=1`, `level=WARN msg="fault 1" times=1`, `level=WARN msg="other faults" times=2`)
}
