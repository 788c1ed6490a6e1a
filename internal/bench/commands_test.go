package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// costs is the format of what a process costs.
const costs = "%g sec/op %g cpu-sec/op %g peak-B/op"

const portmon = "../../portmon"

// killed is of processes that end with the thread that started them.
var killed = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}

// meter runs a command and prints what it costs. It is a small process between
// the benchmarks and what is measured: the peak memory that the kernel reports
// of a process is at least that of the process which started it, and the
// benchmarks' own is large. Of a pipeline, which a shell runs, the peak is that
// of its largest process.
func meter(args []string) (exitCode int) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, killed
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	wall, s := time.Since(begin), cmd.ProcessState
	peak := s.SysUsage().(*syscall.Rusage).Maxrss << 10
	fmt.Printf(costs, wall.Seconds(), (s.UserTime() + s.SystemTime()).Seconds(), float64(peak))
	return 0
}

// process is a command that a meter runs on a host. What the command prints is
// thrown away.
type process struct {
	*exec.Cmd
	t              testing.TB
	stdout, stderr bytes.Buffer // of the meter
}

func (s *site) start(args ...string) *process {
	p := &process{Cmd: exec.Command("/proc/self/exe", append([]string{"meter"}, args...)...), t: s.T}
	p.Stdout, p.Stderr, p.SysProcAttr = &p.stdout, &p.stderr, killed
	s.Host.Do(func() { check(s.T, p.Start()) })
	return p
}

// wait returns what a process has cost when it has ended.
func (p *process) wait() (metrics string) {
	if err := p.Wait(); err != nil {
		p.t.Fatalf("%v: %v: %.1000s", p, err, &p.stderr)
	}
	return p.stdout.String()
}

// command returns what runs a command on the host and measures it, and portmon
// one of portmon.
func (s *site) command(args ...string) func() (metrics string) {
	return func() string { return s.start(args...).wait() }
}
func (s *site) portmon(args ...string) func() (metrics string) {
	return s.command(append(append([]string{portmon}, args...), "--config", s.toml)...)
}

// inProcess returns what runs f and measures it, except for memory.
func (s *site) inProcess(f func()) func() (metrics string) {
	return func() string {
		begin, used := time.Now(), clock(s.T, unix.CLOCK_PROCESS_CPUTIME_ID)
		f()
		cpu := clock(s.T, unix.CLOCK_PROCESS_CPUTIME_ID) - used
		return fmt.Sprintf("%g sec/op %g cpu-sec/op", time.Since(begin).Seconds(), cpu.Seconds())
	}
}

// clock reads a clock of the kernel.
func clock(t testing.TB, id int32) time.Duration {
	var ts unix.Timespec
	check(t, os.NewSyscallError("clock_gettime", unix.ClockGettime(id, &ts)))
	return time.Duration(ts.Nano())
}

// BenchmarkInstall installs the table where there is none, and finds out that
// there is nothing to do. What nft loads replaces the rules of the table and
// leaves its sets, as portmon does.
func BenchmarkInstall(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		prefixes := slices.Concat(prefixes4(n / *shrink / 2), prefixes6(n / *shrink / 2))
		spec := ruleset.Default()
		spec.Whitelist = append(spec.Whitelist, prefixes...)
		s := newSite(b, standard, fmt.Sprintf("whitelist_files = [%q]", file(b, lines(prefixes))))
		text := "add table inet portmon\nflush table inet portmon\n" + ruleset.Compile(spec).String()
		nft, apply := s.command("nft", "-f", file(b, text)), s.portmon("apply")
		compare(b, fmt.Sprintf("install, %d prefixes whitelisted", n), *rounds,
			contender{"nft -f", after(s.FlushRuleset, nft)},
			contender{"portmon apply", after(s.FlushRuleset, apply)})
		compare(b, fmt.Sprintf("nothing to change, %d prefixes whitelisted", n), *rounds,
			contender{"nft -f", after(func() { s.FlushRuleset(); nft() }, nft)},
			contender{"portmon apply", after(func() { s.FlushRuleset(); apply() }, apply)})
	}
}

// BenchmarkBan adds bans with timeouts.
func BenchmarkBan(b *testing.B) {
	s := newSite(b, 2*standard, "")
	renew := func() {
		s.FlushRuleset()
		check(b, os.RemoveAll(s.state))
		s.portmon("apply")()
	}
	bans := func(work string, n int, nft, list string) {
		ban := s.portmon("ban", "--for", "100h", "--file", file(b, list))
		compare(b, work, *rounds,
			contender{"nft -f", after(renew, s.leaving(n, s.command("nft", "-f", file(b, nft))))},
			contender{"portmon ban --file", after(renew, s.leaving(n, ban))})
	}
	list := lines(sources4(size(standard)))
	bans("ban 65,536 addresses", size(standard), elements("ban4", list), list)
	n := size(100_000) / 2
	v4, v6 := lines(prefixes4(n)), lines(prefixes6(n))
	bans("ban 100,000 prefixes", 2*n, elements("net4", v4)+elements("net6", v6), v4+v6)
}

// BenchmarkRestore puts bans back. nft loads a file with the table and the bans.
func BenchmarkRestore(b *testing.B) {
	n := size(standard)
	s := newBanned(b, n)
	nft := file(b, ruleset.Compile(ruleset.Default()).String()+elements("ban4", lines(sources4(n))))
	compare(b, "restore 65,536 bans into a new table", *rounds,
		contender{"nft -f", after(s.FlushRuleset, s.leaving(n, s.command("nft", "-f", nft)))},
		contender{"portmon apply", after(s.FlushRuleset, s.leaving(n, s.portmon("apply")))})
}

// BenchmarkAsk asks for one of many sources.
func BenchmarkAsk(b *testing.B) {
	const work = "ask for one of 500,000 bans"
	n := size(500_000)
	s := newBanned(b, n)
	addr := sources4(n)[n/2].String()
	compare(b, work, *rounds,
		contender{"nft get element", s.command("nft", "get", "element", "inet", "portmon", "ban4", "{ "+addr+" }")},
		contender{"portmon why, no watcher", s.portmon("why", addr)},
		contender{"portmon list ADDR, no watcher", s.portmon("list", addr)})
	defer s.watch().stop()
	compare(b, work, *rounds,
		contender{"portmon why, with a watcher", s.portmon("why", addr)},
		contender{"portmon list ADDR, with a watcher", s.portmon("list", addr)})
}

// BenchmarkList lists who is banned.
func BenchmarkList(b *testing.B) {
	const nft = `nft -j list set inet portmon ban4 | jq -re '.nftables[]|.set?|.elem?[]?.elem.val'`
	for _, n := range []int{10_000, 100_000, 500_000} {
		s := newBanned(b, size(n))
		compare(b, fmt.Sprintf("list %d bans", n), min(*rounds, max(1, 1_000_000/n)),
			contender{"nft -j list set + jq", s.command("sh", "-c", nft)},
			contender{"portmon list --json", s.portmon("list", "--json")}, contender{"portmon list", s.portmon("list")},
			contender{"portmon list --count", s.portmon("list", "--count")}, s.dump())
	}
}

// BenchmarkKnown reads bans whose addresses are known.
func BenchmarkKnown(b *testing.B) {
	n := size(1_000_000)
	s := newBanned(b, n)
	ban4, err := s.Conn.Set(theTable, "ban4")
	check(b, err)
	var keys []nftset.Key
	for _, a := range sources4(n) {
		keys = append(keys, nftset.AddrKey(a))
	}
	compare(b, "read 1,000,000 bans", min(*rounds, 2), s.dump(),
		contender{"nftset's GetMany", s.inProcess(func() {
			found := 0
			for _, err := range s.Conn.GetMany(ban4, slices.Values(keys)) {
				check(b, err)
				found++
			}
			if found != n {
				b.Fatalf("read %d bans, want %d", found, n)
			}
		})})
}

// dump has this process ask the kernel for the elements of ban4 and drop the
// answers, which every list of bans costs at least.
func (s *site) dump() contender {
	// NFTA_SET_ELEM_LIST_TABLE and _SET, in the byte order of amd64 and arm64.
	const attrs = "\x0c\x00\x01\x00portmon\x00" + "\x09\x00\x02\x00ban4\x00\x00\x00\x00"
	return contender{"bare receive loop", s.inProcess(func() {
		for _, err := range s.Conn.Dump(unix.NFT_MSG_GETSETELEM, nftset.FamilyINet, []byte(attrs)) {
			check(s.T, err)
		}
	})}
}

// after returns what runs a command in the state that prepare has made.
func after(prepare func(), run func() string) func() string {
	return func() string { prepare(); return run() }
}

// leaving returns what runs a command that must leave n bans.
func (s *site) leaving(n int, run func() string) func() string {
	return func() string {
		metrics := run()
		if got := s.banned(); got != n {
			s.T.Fatalf("%d bans, want %d", got, n)
		}
		return metrics
	}
}

// file writes a file that commands read, and returns its name.
func file(b *testing.B, text string) string {
	name := filepath.Join(b.TempDir(), "file")
	check(b, os.WriteFile(name, []byte(text), 0o600))
	return name
}

// elements are bans for nft, of a list.
func elements(set, list string) string {
	return fmt.Sprintf("add element inet portmon %s {\n%s}\n", set, strings.ReplaceAll(list, "\n", " timeout 100h,\n"))
}

// lines returns one line for each.
func lines[T fmt.Stringer](list []T) string {
	var b strings.Builder
	for _, v := range list {
		fmt.Fprintln(&b, v)
	}
	return b.String()
}
