package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// longVariable makes TestConsistency run for two minutes.
const longVariable = "PORTMON_LONG"

const (
	stormSources = 120 // of each family offend
	stormMetrics = 9317
	stormClosest = 2 * time.Second // two reports of one moment
)

// storm is a host on which everything happens at once.
type storm struct {
	*site
	t       *testing.T
	dir     string
	configs int // how many configurations it has
	watcher atomic.Pointer[exec.Cmd]
	log     *os.File

	mu   sync.Mutex
	ran  map[string]int // commands, by name and exit code
	said map[string]string
}

// TestConsistency has programs apply changing configurations, ban, unban, save,
// flush and remove the table, reload and kill the watcher, all at once, while
// others offend. When all of that is over, the kernel, `list`, `why`, the
// metrics, the watcher and the state file say the same.
func TestConsistency(t *testing.T) {
	t.Parallel()
	lab.Program(t, "nft")
	lasts := 5 * time.Second
	if os.Getenv(longVariable) != "" {
		lasts = 2 * time.Minute
	}
	t.Run("same sources", func(t *testing.T) { t.Parallel(); testConsistency(t, lasts, 4) })
	t.Run("prefix6 changes", func(t *testing.T) { t.Parallel(); testConsistency(t, lasts, 5) })
}

func testConsistency(t *testing.T, lasts time.Duration, configs int) {
	s := newStorm(t)
	s.configs = configs
	s.configure(0)
	s.must("apply")
	s.startWatcher()
	s.settle()

	// These are left alone from now on: what they have must last, and what was
	// lifted must not come back.
	climbers := []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	if configs < 5 { // with another prefix6, sources are others, and have no steps
		climbers = append(climbers, netip.MustParseAddr("2001:db8:a::1"))
	}
	lifted := []netip.Addr{netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8:b::1")}
	for _, src := range append(climbers, lifted...) {
		s.Offend(src)
	}
	s.settle()
	for _, src := range lifted {
		s.must("unban", src.String())
	}
	s.must("save")

	s.rage(lasts)

	if s.watcher.Load() == nil {
		s.startWatcher()
	}
	s.settle() // see TestApplyWhileStarting for an apply before that
	s.configure(0)
	s.must("apply")
	for range 60 { // in case that the table was removed last
		s.portmon("ban", "--for", "2h", stormTarget())
		s.Internet.Send(s.SYN(stormSource(), lab.TrapTCP))
	}
	s.settle()
	time.Sleep(stormClosest + time.Second) // the bans of the first step end
	s.settle()
	s.compare(climbers, lifted)
	s.mu.Lock()
	defer s.mu.Unlock()
	for what, n := range s.ran {
		t.Logf("%5d × %s %s", n, what, s.said[what])
	}
	if t.Failed() {
		log, _ := os.ReadFile(s.log.Name())
		t.Logf("the watcher's log ends:\n%s", log[max(0, len(log)-8000):])
	}
}

func newStorm(t *testing.T) *storm {
	dir := lab.ShortDir(t)
	s := &storm{site: newSite(t), t: t, dir: dir, ran: map[string]int{}, said: map[string]string{}}
	s.Host.Listen("tcp", "[::]:80")
	var err error
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill(unix.SIGTERM)
		s.log.Close()
	})
	return s
}

func (s *storm) file() string  { return filepath.Join(s.dir, "portmon.toml") }
func (s *storm) state() string { return filepath.Join(s.dir, "state.jsonl") }

// configure writes one of several configurations. The first is that of the end.
func (s *storm) configure(n int) {
	trap, bantime, whitelist, prefix6 := "23, 3389", `"2s", "1h", "3d"`, `"192.0.2.200"`, 64
	switch n {
	case 1:
		trap = `23, 3389, "5900-5999"`
	case 2:
		bantime = `"2s", "1h"`
	case 4:
		prefix6 = 56
	case 3:
		whitelist = `"192.0.2.200", "198.18.0.0/28", "2001:db8:100::/44"`
	}
	text := fmt.Sprintf("whitelist = [%s]\n[trap]\ntcp = [%s]\ngrace = \"0s\"\n[ban]\nbantime = [%s]\nprefix6 = %d\nsubnet6 = 0\n"+
		"[watch]\nstate = %q\nmetrics = \"127.0.0.1:%d\"\n", whitelist, trap, bantime, prefix6, s.state(), stormMetrics)
	temp := filepath.Join(s.dir, fmt.Sprintf("conf%d", rand.Uint64()))
	if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
		s.t.Error(err)
	}
	if err := os.Rename(temp, s.file()); err != nil {
		s.t.Error(err)
	}
}

// portmon runs a command, and counts how it ended.
func (s *storm) portmon(args ...string) (code int, stdout, stderr string) {
	e, out, errs := hostEnv(s.Host)
	s.Host.Do(func() { code = run(e, append(args, "--config", s.file())) })
	s.mu.Lock()
	defer s.mu.Unlock()
	what := fmt.Sprintf("%s: exit code %d", args[0], code)
	s.ran[what]++
	s.said[what] = strings.ReplaceAll(errs.String(), "\n", " ")
	return code, out.String(), errs.String()
}

func (s *storm) must(args ...string) (stdout string) {
	s.t.Helper()
	code, stdout, stderr := s.portmon(args...)
	if code != exitDone {
		s.t.Fatalf("portmon %s: exit code %d, %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

func (s *storm) startWatcher() {
	cmd := exec.Command("/proc/self/exe", "watch", "--config", s.file())
	cmd.Args[0] = "portmon"
	cmd.Stderr = s.log
	s.Host.Do(func() {
		if err := cmd.Start(); err != nil {
			s.t.Error(err)
		}
	})
	s.watcher.Store(cmd)
}

// kill ends the watcher by a signal, and returns when it has ended.
func (s *storm) kill(signal unix.Signal) {
	if w := s.watcher.Swap(nil); w != nil {
		w.Process.Signal(signal)
		w.Wait()
	}
}

// stormSource returns one of those that offend.
func stormSource() netip.Addr {
	n := rand.IntN(stormSources)
	if rand.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{198, 18, 0, byte(n)})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:1%02x::%x", n, 1+rand.IntN(3)))
}

// stormTarget returns what is banned and unbanned by hand.
func stormTarget() string {
	n := rand.IntN(8)
	return []string{
		stormSource().String(), stormSource().String(),
		fmt.Sprintf("198.18.%d.0/24", 1+n), fmt.Sprintf("198.18.%d.%d/26", 1+n, 64*rand.IntN(4)),
		fmt.Sprintf("2001:db8:2%02x::/48", n), fmt.Sprintf("2001:db8:2%02x:%x::/60", n, 16*rand.IntN(4)),
		fmt.Sprintf("2001:db8:3%02x::%x/128", n, n),
	}[rand.IntN(7)]
}

// rage runs everything at once for some time.
func (s *storm) rage(lasts time.Duration) {
	ctx, stop := context.WithTimeout(s.t.Context(), lasts)
	defer stop()
	var all sync.WaitGroup
	again := func(pause time.Duration, f func()) {
		all.Go(func() {
			for sleep(ctx, rand.N(2*pause)); ctx.Err() == nil; sleep(ctx, rand.N(2*pause)) {
				f()
			}
		})
	}
	again(400*time.Millisecond, func() {
		s.configure(rand.IntN(s.configs))
		s.portmon("apply")
	})
	again(50*time.Millisecond, func() { s.portmon("ban", "--for", "2h", stormTarget()) })
	again(300*time.Millisecond, func() { s.portmon("ban", "--for", "forever", stormTarget()) })
	again(100*time.Millisecond, func() { s.portmon("ban", "--offence", stormSource().String()) })
	again(60*time.Millisecond, func() { s.portmon("unban", stormTarget()) })
	again(250*time.Millisecond, func() { s.portmon("allow", "--for", "2h", stormTarget()) })
	again(250*time.Millisecond, func() { s.portmon("disallow", stormTarget()) })
	again(500*time.Millisecond, func() { s.portmon("save") })
	again(700*time.Millisecond, func() { s.portmon("list", "--json") })
	again(200*time.Millisecond, func() { // another program
		src, set := stormSource(), "ban4"
		if src.Is6() {
			src, set = netip.PrefixFrom(src, 64).Masked().Addr(), "ban6"
		}
		s.nft(fmt.Sprintf("add element inet %s %s { %v timeout 3h }", tableName, set, src))
	})
	again(2*time.Second, func() { s.nft("flush ruleset") })
	again(4*time.Second, func() {
		s.portmon("remove")
		s.portmon("apply")
	})
	again(900*time.Millisecond, func() {
		// Before it listens, the signal would end it.
		w := s.watcher.Load()
		if c, err := control.Dial(control.Path(s.state())); err == nil {
			c.Close()
			if w != nil {
				w.Process.Signal(unix.SIGHUP)
			}
		}
	})
	again(1500*time.Millisecond, func() {
		s.kill(unix.SIGKILL)
		sleep(ctx, rand.N(2*time.Second))
		s.startWatcher()
	})
	for ctx.Err() == nil {
		for range 10 {
			s.Internet.Send(s.SYN(stormSource(), lab.TrapTCP)) // which answers without a table
		}
		sleep(ctx, rand.N(50*time.Millisecond))
	}
	all.Wait()
}

// sleep returns when the time has passed or the context has ended.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// nft runs a script of nft's, which may fail for want of a table.
func (s *storm) nft(script string) {
	_, err := lab.TryNFT(s.t, s.Host, script)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ran[fmt.Sprintf("nft %s: %v", script[:5], err != nil)]++
}

// settle returns when the watcher has dealt with all that happened.
func (s *storm) settle() {
	s.t.Helper()
	for end := time.Now().Add(lab.Patience); ; time.Sleep(50 * time.Millisecond) {
		w, err := control.Dial(control.Path(s.state()))
		if err == nil {
			var status control.Status
			err = w.Save()
			if err == nil {
				status, err = w.Status()
			}
			w.Close()
			if err == nil && status.TableCurrent {
				return
			}
			err = fmt.Errorf("%w; status is %+v", err, status)
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(s.log.Name())
			s.t.Fatalf("the watcher does not settle: %v\n%s", err, log[max(0, len(log)-8000):])
		}
	}
}

// compare fails the test where two of those that know of bans differ.
func (s *storm) compare(climbers, lifted []netip.Addr) {
	c, err := nftset.Dial(&nftset.Config{NetNS: s.Host.FD()})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		s.t.Fatal(err)
	}
	held, err := readKernel(h)
	if err != nil {
		s.t.Fatal(err)
	}
	kernel := make(inKernel)
	for row := range held.Rows() {
		kernel[row.Source] = row
	}
	bans, prefixes, six := 0, 0, 0
	for _, row := range kernel {
		if row.Banned {
			bans++
		}
		if row.Banned && row.Source.Addr().Is6() {
			six++
		}
		if row.Banned && row.Step == 0 && !row.Source.IsSingleIP() {
			prefixes++
		}
	}
	// What is allowed may be banned as well, which has no effect.
	allowed := func(p netip.Prefix) bool {
		for q, row := range kernel {
			if row.Allowed && q.Bits() <= p.Bits() && q.Contains(p.Addr()) {
				return true
			}
		}
		return false
	}
	s.t.Logf("%d sources: %d bans, %d of IPv6, %d of prefixes by hand", len(kernel), bans, six, prefixes)
	if bans < 20 || six < 5 || prefixes < 2 {
		s.t.Error("that is too few to compare")
	}

	// The file, and the watcher.
	saved, report, err := book.Read(book.Config{Path: s.state(), Here: book.Here(0), Now: book.ReadClock()})
	if err != nil || report.BadLines > 0 || report.Torn {
		s.t.Fatalf("%v: %v", report, err)
	}
	s.sameRows("the state file", saved, kernel)
	w, err := control.Dial(control.Path(s.state()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Close()
	var remembered *book.Book
	s.Host.Do(func() { remembered, err = w.Book(0) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.sameRows("the watcher", remembered, kernel)

	// list, with all that it says of a ban.
	var list struct{ Bans []listedBan }
	if err := json.Unmarshal([]byte(s.must("list", "--json")), &list); err != nil {
		s.t.Fatal(err)
	}
	// A source can be under a ban that ends and one that does not; the longest
	// counts.
	longest := make(map[netip.Prefix]listedBan)
	under := make(map[netip.Prefix]int)
	for _, b := range list.Bans {
		if under[b.Prefix]++; under[b.Prefix] == 1 || longest[b.Prefix].ExpiresSeconds > 0 && (b.ExpiresSeconds == 0 || b.ExpiresSeconds > longest[b.Prefix].ExpiresSeconds) {
			longest[b.Prefix] = b
		}
	}
	for p, b := range longest {
		row := kernel[p]
		if row.Allowed {
			delete(longest, p)
			continue
		}
		left := row.Remaining(book.ReadClock().Boot).Seconds()
		if !row.Banned || left-b.ExpiresSeconds > stormClosest.Seconds() || b.ExpiresSeconds-left > stormClosest.Seconds() {
			s.t.Errorf("list: %+v, but the kernel has %+v", b, row)
		}
		if b.Cause != "hand" && b.Tier != row.Step {
			s.t.Errorf("list: %+v is at tier %d, but the kernel has %+v", b, b.Tier, row)
		}
	}
	if len(longest) != bans {
		s.t.Errorf("list has %d banned sources, the kernel %d", len(longest), bans)
	}

	// why, of each source, and of those that have nothing.
	asked := append([]netip.Addr{netip.MustParseAddr("203.0.113.250")}, lifted...)
	for p := range kernel {
		asked = append(asked, p.Addr())
	}
	for _, a := range asked {
		var why struct {
			Source  netip.Prefix
			Verdict string
			Tier    int
			Bans    []listedBan
		}
		if err := json.Unmarshal([]byte(s.must("why", "--json", a.String())), &why); err != nil {
			s.t.Fatal(err)
		}
		if exempt := allowed(netip.PrefixFrom(a, a.BitLen())); exempt || why.Verdict == "allowed" {
			if exempt != (why.Verdict == "allowed") {
				s.t.Errorf("why %v: %+v, but that it is allowed is %v", a, why, exempt)
			}
			continue
		}
		covering := 0
		for p, row := range kernel {
			if row.Banned && p.Contains(a) {
				covering += under[p]
			}
		}
		if len(why.Bans) != covering || (why.Verdict == "banned") != (covering > 0) || why.Tier != kernel[why.Source].Step {
			s.t.Errorf("why %v: %+v, but %d bans of the kernel cover it, and its source is %+v", a, why, covering, kernel[why.Source])
		}
	}

	s.compareMetrics(h, kernel, remembered)
	for _, src := range climbers {
		source, err := h.Source(src)
		if err != nil || kernel[source].Step < 1 {
			s.t.Errorf("%v has lost its step: %+v, %v", src, kernel[source], err)
		}
	}
	for _, src := range lifted {
		if source, err := h.Source(src); err != nil || kernel[source].Banned || kernel[source].Step > 0 {
			s.t.Errorf("%v was unbanned, and has %+v, %v", src, kernel[source], err)
		}
	}
	// And the packets: what is banned is cut, and nothing else.
	for i, a := range asked {
		if i%8 != 0 {
			continue
		}
		banned := false
		for p, row := range kernel {
			banned = banned || row.Banned && p.Contains(a)
		}
		banned = banned && !allowed(netip.PrefixFrom(a, a.BitLen()))
		if got := s.Probe(a, 80).Kind; (got == netnstest.NoAnswer) != banned {
			s.t.Errorf("%v gets answer %v; banned is %v", a, got, banned)
		}
	}
}

// inKernel is what the table holds, by source.
type inKernel map[netip.Prefix]book.Row

// sameRows fails the test where a book and the kernel differ.
func (s *storm) sameRows(whose string, b *book.Book, kernel inKernel) {
	now := book.ReadClock().Boot
	all := make(map[netip.Prefix]bool)
	for p := range kernel {
		all[p] = true
	}
	for row := range b.Rows() {
		all[row.Source] = true
	}
	for p := range all {
		have, _ := b.Get(p)
		want := kernel[p]
		switch {
		case have.BannedAt(now) != want.BannedAt(now) || have.AllowedAt(now) != want.AllowedAt(now) || have.StepAt(now) != want.StepAt(now),
			(have.Timeout == 0) != (want.Timeout == 0),
			want.Timeout > 0 && have.Until.Sub(want.Until).Abs() > stormClosest:
			s.t.Errorf("%s has %+v, the kernel %+v", whose, have, want)
		}
	}
}

// compareMetrics fails the test where metrics and the kernel differ.
func (s *storm) compareMetrics(h *ruleset.Handle, kernel inKernel, remembered *book.Book) {
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), stormMetrics)
		return s.Host.Dial("tcp", netip.MustParseAddr("127.0.0.1"), to, lab.Patience)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://watcher/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	want := map[string]int{"portmon_table_present": 1, "portmon_table_current": 1, "portmon_scrape_errors": 0}
	if s.configs < 5 { // rows of sources that are none any more stay until the book is swept
		want["portmon_book_rows"] = len(kernel)
	}
	for row := range remembered.Rows() { // only the watcher knows who made a ban without a comment
		family, step := "ip", row.Step
		if row.Source.Addr().Is6() {
			family = "ip6"
		}
		if row.ByHand {
			step = 0
		}
		if row.Banned {
			want[fmt.Sprintf(`portmon_bans{family="%s",tier="%d"}`, family, step)]++
		}
		if row.Step > 0 {
			want["portmon_offenders"]++
		}
	}
	fill, err := h.Fill()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range fill {
		want[fmt.Sprintf(`portmon_set_elements{set="%s"}`, f.Set)] = f.Count
	}
	text := new(strings.Builder)
	if err := resp.Write(text); err != nil {
		s.t.Fatal(err)
	}
	got := make(map[string]int)
	for line := range strings.Lines(text.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(value); err == nil {
			got[name] = n
		}
	}
	for name, n := range want {
		if g, ok := got[name]; !ok && n > 0 || g != n {
			s.t.Errorf("metrics: %s is %d, want %d", name, g, n)
		}
	}
}
