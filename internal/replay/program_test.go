package replay

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/internal/machine"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m, 1)) }

// TestAgreementOnTcpdump replays what tcpdump captured while the kernel's table
// worked: both have banned the same sources and dropped as many packets. Where
// the host serves, replay has seen.
func TestAgreementOnTcpdump(t *testing.T) {
	l := banlab.New(t)
	spec := ruleset.Default()
	replayed := replayUntil(t, spec, tcpdump(t, l.Host), func(p *machine.Packet) bool {
		s, ok := p.Service()
		return ok && s.Proto == unix.IPPROTO_UDP && s.Port() == lastPort
	})
	l.Apply(spec)
	tx := &nftset.Tx{}
	tx.FlushSet(l.Open().Set("starting")) // a table that is young traps nobody
	if err := l.Conn.Commit(tx); err != nil {
		t.Fatal(err)
	}

	sources := l.Sources(24)
	visitors, trapped, scanners, both := sources[:6], sources[6:12], sources[12:18], sources[18:]
	l.Visit(visitors...)
	for _, src := range both {
		l.Internet.AddAddr(l.Link.A.Dev, netip.PrefixFrom(src, src.BitLen()).String())
		if err := l.Internet.Exchange("tcp", src, l.To(src, lab.OpenTCP), lab.Patience); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // the later ones are dropped, or retries
		for i := range uint16(spec.Scan.Ports) {
			for _, src := range slices.Concat(scanners, both) {
				l.Internet.Send(l.SYN(src, lab.Closed+i))
			}
		}
		for _, src := range trapped {
			l.Internet.Send(l.SYN(src, lab.TrapTCP), l.UDP(src, lab.OpenUDP))
		}
	}
	l.Visit(visitors...)
	l.Internet.Send(l.UDP(visitors[0], lastPort))
	kernel := l.Open()

	result := <-replayed
	if result == nil {
		return
	}
	var banned []netip.Prefix
	for _, o := range result.Offenders {
		banned = append(banned, o.Source.Prefix)
		if visited := slices.ContainsFunc(both, o.Source.Contains); visited != (o.Visits > 0) {
			t.Errorf("%v has visited %d times", o.Source, o.Visits)
		}
	}
	var want []netip.Prefix
	for _, src := range slices.Concat(trapped, scanners, both) {
		want = append(want, l.Lookup(src).Source)
	}
	slices.SortFunc(banned, text.ComparePrefixes)
	slices.SortFunc(want, text.ComparePrefixes)
	if !slices.Equal(banned, want) {
		t.Errorf("replay bans %v\nthe kernel %v", banned, want)
	}
	dropped := 0
	for _, name := range []string{"dropped", "trapped", "scanned"} {
		dropped += int(kernel.Counters[name].Packets)
	}
	if got := result.Configured.Dropped; got != dropped || dropped < 3*len(want) {
		t.Errorf("replay drops %d packets, the kernel %d: %v", got, dropped, kernel.Counters)
	}
	if !result.Answers || !slices.ContainsFunc(result.Services, func(s machine.Service) bool { return s.Port() == lab.OpenTCP }) {
		t.Errorf("services: %v", result.Services)
	}
}

const lastPort = 9 // where the last packet goes

// replayUntil replays packets while they come, up to the one that is the last.
func replayUntil(t *testing.T, spec ruleset.Spec, in *capture.Reader, last func(*machine.Packet) bool) <-chan *Result {
	r, err := New(Config{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan *Result, 1)
	go func() {
		defer close(done)
		for {
			p, err := in.Read()
			if err != nil {
				t.Error(err)
				return
			}
			r.Add(&p)
			if q := (machine.Packet{}); q.Parse(p.Data) && last(&q) {
				break
			}
		}
		r.Finish()
		done <- r.Result()
	}()
	return done
}

// tcpdump returns what comes of all interfaces of a host, from now on.
func tcpdump(t *testing.T, h *netnstest.Host) *capture.Reader {
	t.Helper()
	path := lab.Program(t, "tcpdump")
	if b, err := os.ReadFile("/proc/self/setgroups"); err != nil || string(b) == "deny\n" {
		t.Skip("tcpdump gives up its groups, even to remain root, which a user namespace of one user forbids")
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lab.LongPatience) // or until a packet is lost
	cmd := exec.CommandContext(ctx, path, "-n", "-p", "-U", "--immediate-mode", "-B", "8192", "-s", "128", "-Z", "root", "-i", "any", "-w", "-")
	cmd.Stdout = write
	stderr, err := cmd.StderrPipe()
	h.Do(func() {
		if err == nil {
			err = cmd.Start()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	t.Cleanup(func() { cancel(); cmd.Wait(); read.Close() })
	said := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "listening on"); {
		if line, err = said.ReadString('\n'); err != nil {
			t.Fatalf("tcpdump: %v after %q", err, line)
		}
	}
	r, err := capture.Open(fmt.Sprintf("/proc/self/fd/%d", read.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}
