package top

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/portmon/portmon/internal/events"
)

var start = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// desk is a screen, and what it has asked for.
type desk struct {
	*Model
	t     *testing.T
	asked []string
}

func newDesk(t *testing.T, opts Options) *desk {
	d := &desk{t: t}
	opts.Zone = time.UTC
	opts.Do = func(command string, source netip.Prefix) Result {
		d.asked = append(d.asked, command+" "+source.String())
		return Result{Title: "portmon " + command, Text: "done\n"}
	}
	d.Model = New(opts)
	return d
}

// press presses keys: names in angle brackets, and characters.
func (d *desk) press(keys string) {
	d.t.Helper()
	for _, k := range regexp.MustCompile(`<[^>]+>|.`).FindAllString(keys, -1) {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		if named, ok := map[string]tea.KeyPressMsg{
			"<esc>": {Code: tea.KeyEscape}, "<enter>": {Code: tea.KeyEnter}, "<tab>": {Code: tea.KeyTab}, "<down>": {Code: tea.KeyDown},
			"<up>": {Code: tea.KeyUp}, "<backspace>": {Code: tea.KeyBackspace}, "<end>": {Code: tea.KeyEnd},
		}[k]; ok {
			msg = named
		}
		_, cmd := d.Update(msg)
		if cmd != nil {
			d.Update(cmd())
		}
	}
}

// offend has sources offend, each by another port.
func (d *desk) offend(first, n int) {
	var all Batch
	for i := first; i < first+n; i++ {
		all = append(all, events.Event{
			Time: events.Time{Time: start}, Event: "banned", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32),
			Cause: "trap", Tier: 1, Protocol: "tcp", Port: uint16(1000 + i),
		})
	}
	d.Update(all)
}

func (d *desk) shows(want string) {
	d.t.Helper()
	if s := d.draw(); !strings.Contains(s, want) {
		d.t.Errorf("%q is not shown:\n%s", want, s)
	}
}

func (d *desk) selectedLine() string {
	l := d.list()
	return strings.Join(l.line(d.selected(l)).cells, " ")
}

func TestLooks(t *testing.T) {
	d := newDesk(t, Options{Host: "web1"})
	d.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	for i, dropped := range []uint64{100, 100, 110, 130, 170, 250} {
		d.Update(Snapshot{Time: start.Add(time.Duration(i) * time.Second), State: "enforcing", Good: true, Dropped: dropped,
			Sets: []Set{{"probed4", 5000, 262144}, {"ban4", 65536, 65536}, {"ban6", 3, 65536}}})
	}
	d.Update(Source("the watcher"))
	d.offend(1, 2)
	d.Update(Batch{{Time: events.Time{Time: start}, Event: "table_gone"}})
	want := `portmon: enforcing                       events from the watcher, web1, 12:00:05
dropped 80/s, at most 80/s in the last 5 seconds; 250 packets in all
                                                                               @
                                                                            :=@@
ban4     ########## 100% 65536          ban6     :.........   0% 3
probed4  :.........   2% 5000

[events]  longest bans
TIME     ADDRESS                   EVENT     CAUSE  PORT      TIER NETWORK
12:00:00 table gone
12:00:00 198.18.0.2                banned    trap   tcp/1002  1
12:00:00 198.18.0.1                banned    trap   tcp/1001  1
`
	var got []string
	for _, line := range strings.Split(d.draw(), "\n") {
		line = strings.NewReplacer("\x1b["+bold+"m", "", "\x1b["+reverse+"m", "", "\x1b[m", "").Replace(line)
		got = append(got, strings.TrimRight(line, " "))
	}
	if len(got) != 24 || strings.Join(got[:12], "\n")+"\n" != want {
		t.Errorf("%d lines:\n%s\nwant\n%s", len(got), strings.Join(got, "\n"), want)
	}
}

// TestKeysShow has all keys in the narrowest terminal.
func TestKeysShow(t *testing.T) {
	d := newDesk(t, Options{})
	d.Update(tea.WindowSizeMsg{Width: minWidth, Height: minHeight})
	for _, list := range []string{"", "<tab>"} {
		d.press(list)
		for _, key := range []string{"tab ", "/ filter", "w why", "u unban", "b ban", "a allow", "p pause", "q quit"} {
			d.shows(key)
		}
	}
}

// TestBansAreOld has a list of bans that was read a while ago, from which the
// watcher's news take what was lifted since, and nothing else.
func TestBansAreOld(t *testing.T) {
	d := newDesk(t, Options{})
	ban := func(s string) Ban { return Ban{Prefix: netip.MustParsePrefix(s)} }
	news := func(after time.Duration, event, prefix string, count int) events.Event {
		return events.Event{Time: events.Time{Time: start.Add(after)}, Event: event, Prefix: netip.MustParsePrefix(prefix), Count: count}
	}
	d.Update(Bans{Time: start, Total: 70_000, Longest: []Ban{
		ban("198.18.0.1/32"), ban("198.18.0.2/32"), ban("2001:db8:7:7::/64"), ban("203.0.113.0/24"), ban("198.51.100.7/32"), ban("192.0.2.9/32"),
	}})
	d.press("<tab>")
	d.Update(Snapshot{Time: start.Add(10 * time.Second)})
	d.shows("[longest bans (70000)]")
	d.Update(Batch{
		news(-time.Minute, "lifted", "198.18.0.1/32", 0), // it has been banned again
		news(time.Second, "lifted", "198.18.0.2/32", 0), news(time.Second, "unbanned_by_hand", "2001:db8:7::/48", 200),
		news(time.Second, "allowed_by_hand", "203.0.113.7/32", 0), news(time.Second, "lifted", "198.51.100.0/24", 0),
		news(time.Second, "allowed_by_hand", "192.0.2.0/28", 0), {Event: "table_gone"},
	})
	d.Update(Snapshot{Time: start.Add(80 * time.Second)})
	d.shows("[longest bans (69997, 1m20s ago)]")
	var left []string
	for _, b := range d.bans.Longest {
		left = append(left, b.Prefix.String())
	}
	if got := strings.Join(left, " "); got != "198.18.0.1/32 203.0.113.0/24 198.51.100.7/32" {
		t.Errorf("left: %s", got)
	}
}

// TestObserving has nobody banned while the table observes.
func TestObserving(t *testing.T) {
	d := newDesk(t, Options{})
	d.Update(Snapshot{Time: start, State: "observing", Observing: true})
	for _, event := range []string{"would_be_banned", "would_be_escalated"} {
		d.Update(Batch{{Event: event, Prefix: netip.MustParsePrefix("198.18.0.1/32")}})
		d.shows(strings.ReplaceAll(event, "_", " "))
	}
	d.Update(Bans{Time: start, Total: 1})
	d.shows("longest would-be bans (1)")
}

// TestSuspend gives the terminal back where a shell waits, and only there. A
// stopped process would keep the log group from a watcher that starts.
func TestSuspend(t *testing.T) {
	for _, tt := range []struct {
		waits  bool
		source Source
		want   bool
	}{{false, Watcher, false}, {true, Watcher, true}, {true, "", true}, {true, LogGroup, false}} {
		d := newDesk(t, Options{MaySuspend: tt.waits})
		d.Update(tt.source)
		_, cmd := d.Update(tea.KeyPressMsg{Code: 'z', Mod: tea.ModCtrl})
		if suspends := cmd != nil && cmd() == (tea.SuspendMsg{}); suspends != tt.want {
			t.Errorf("a shell waits: %v, events from %q, suspended: %v", tt.waits, tt.source, suspends)
		}
	}
}

// TestFits draws at many sizes, with names that are too long: no line is wider
// than the terminal, none too many, and there is no colour if none is wanted.
func TestFits(t *testing.T) {
	colour := regexp.MustCompile("\x1b\\[3[0-9]m")
	for width := 1; width < 200; width += 23 {
		for height := 1; height < 60; height += 7 {
			for _, colours := range []bool{false, true} {
				d := newDesk(t, Options{Host: strings.Repeat("h", 100), Colour: colours, Unicode: colours})
				d.Update(tea.WindowSizeMsg{Width: width, Height: height})
				for i := range 300 {
					d.Update(Snapshot{Time: start.Add(time.Duration(i) * time.Second), State: strings.Repeat("not in force ", 20), Dropped: uint64(i * i),
						Sets: []Set{{"ban4", i, 100}, {"ban6", 0, 100}, {strings.Repeat("s", 40), 1 << 30, 0}}})
				}
				d.offend(0, 200)
				d.Update(Batch{{Event: "banned", Prefix: netip.MustParsePrefix("2001:db8:ffff:ffff::/64"), Reason: strings.Repeat("ü", 300)}})
				d.Update(Bans{Total: 123456789})
				d.Update(Batch{{Event: "banned", Prefix: netip.MustParsePrefix("198.18.0.1/32"), Reason: strings.Repeat("日本", 100)}})
				d.press("p")
				d.Update(Result{Title: "why", Text: strings.Repeat("日本 ", 100)})
				d.press("x")
				d.Update(Trouble(strings.Repeat("no ", 200)))
				for _, keys := range []string{"", "<tab>", "<tab>w", "u", "n/" + strings.Repeat("x", 100)} {
					d.press(keys)
					s := d.draw()
					if n := strings.Count(s, "\n") + 1; n > height {
						t.Fatalf("%dx%d, %q: %d lines", width, height, keys, n)
					}
					if !colours && colour.MatchString(s) {
						t.Fatalf("%dx%d: colours: %q", width, height, s)
					}
					for line := range strings.Lines(regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(s, "")) {
						if n := ansi.StringWidth(strings.TrimSuffix(line, "\n")); n > width {
							t.Fatalf("%dx%d, %q: %d columns: %s", width, height, keys, n, line)
						}
					}
				}
			}
		}
	}
}

func TestCursorFollowsItsEvent(t *testing.T) {
	d := newDesk(t, Options{})
	d.press("p")
	d.offend(0, 1)
	d.shows("no events yet") // it stands still
	d.press("p")
	d.offend(0, 10)
	if got := d.selectedLine(); !strings.Contains(got, "198.18.0.9 ") {
		t.Errorf("at first: %s", got)
	}
	d.offend(10, 5)
	if got := d.selectedLine(); !strings.Contains(got, "198.18.0.14 ") {
		t.Errorf("the first line is not the newest: %s", got)
	}
	d.press("<down><down>")
	for _, n := range []int{5, 500} {
		d.offend(20, n)
		if got := d.selectedLine(); !strings.Contains(got, "198.18.0.12 ") {
			t.Errorf("after %d more: %s", n, got)
		}
	}
	d.press("/0.4 <backspace><enter>") // 198.18.0.4, 0.40 …
	d.press("<end>")
	if got := d.selectedLine(); !strings.Contains(got, "198.18.0.4 ") {
		t.Errorf("the last that passes the filter: %s", got)
	}
	d.offend(1000, 3*maxEvents) // it is gone
	d.draw()
	if len(d.events) > 2*maxEvents {
		t.Errorf("%d events are kept", len(d.events))
	}
	d.press("<esc>p")
	before := d.selectedLine()
	d.offend(5000, 10)
	if got := d.selectedLine(); got != before {
		t.Errorf("it went on while it was paused: %s, before %s", got, before)
	}
}

// TestCommands shows that nothing is changed without a confirmation.
func TestCommands(t *testing.T) {
	d := newDesk(t, Options{})
	d.press("uybyay") // nothing is selected
	d.offend(7, 1)
	d.press("un")
	d.press("b<esc>a<enter>uq")
	if len(d.asked) > 0 {
		t.Errorf("without a confirmation: %q", d.asked)
	}
	d.press("u")
	d.shows("unban 198.18.0.7?")
	d.press("y")
	d.shows("done")
	d.press("xbyxayxw")
	want := "[unban 198.18.0.7/32 ban 198.18.0.7/32 allow 198.18.0.7/32 why 198.18.0.7/32]"
	if got := fmt.Sprint(d.asked); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	d.press("x<tab>w")
	d.Update(Bans{Longest: []Ban{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Cause: "hand", Remark: "spam"}}, Total: 1})
	d.press("/SPAM<enter>uy")
	if got := d.asked[len(d.asked)-1]; got != "unban 203.0.113.0/24" {
		t.Errorf("of a ban: %s", got)
	}
}

// TestForeignText shows that nothing of a command's output reaches the terminal
// as more than text.
func TestForeignText(t *testing.T) {
	d := newDesk(t, Options{})
	d.Update(Result{Title: "why", Text: "a\x1b]0;owned\a\x9b2J\rb\n"})
	d.press("\x1b")
	d.Update(Result{Title: "why", Text: "a\x1b]0;owned\a\u009b2J\rb\n"})
	if s := d.draw(); strings.ContainsAny(s, "\a\r\u009b") || strings.Contains(s, "\x1b]") {
		t.Errorf("%q", s)
	}
	d.press("x/")
	d.Update(tea.PasteMsg{Content: "\x1b[31mred\n"})
	if s := d.draw(); strings.Contains(s, "\x1b[31m") {
		t.Errorf("pasted: %q", s)
	}
}

func TestGraph(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		want    string
	}{
		{nil, "    |    "}, {[]float64{0, 0}, "    |    "}, {[]float64{1, 2}, "   █|  ██"}, {[]float64{1000, 1}, "  █ |  █▁"},
		{[]float64{9, 9, 9, 4, 1, 4}, "█   |█▇▂▇"},
	} {
		if got := strings.Join(graph(tt.samples, 4, 2, true), "|"); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.samples, got, tt.want)
		}
	}
}

// TestFilterIsBounded pastes more than a filter takes.
func TestFilterIsBounded(t *testing.T) {
	d := newDesk(t, Options{})
	d.press("/")
	d.Update(tea.PasteMsg{Content: strings.Repeat("é", 1<<16)})
	d.press("x")
	if n := len([]rune(d.filter)); n != maxFilter {
		t.Errorf("the filter has %d characters", n)
	}
}
