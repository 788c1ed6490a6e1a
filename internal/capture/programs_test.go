package capture

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// Packets of a network, as tcpdump captures them on each kind of link, and as
// editcap turns them into other formats.
func TestPrograms(t *testing.T) {
	tcpdump, editcap := lab.Program(t, "tcpdump"), lab.Program(t, "editcap")
	l := lab.New(t)
	if b, err := os.ReadFile("/proc/self/setgroups"); err != nil || string(b) == "deny\n" {
		t.Skip("tcpdump gives up its groups, even to remain root, which a user namespace of one user forbids")
	}
	to4, to6 := netip.AddrPortFrom(l.Link.B.IPv4, 23), netip.AddrPortFrom(l.Link.B.IPv6, 23)
	packets := []netnstest.Packet{netnstest.SYN(l.Link.A.IPv4, to4), netnstest.SYN(l.Link.A.IPv6, to6)}
	var want []string
	for _, p := range packets {
		b, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, string(b))
	}
	for _, tt := range []struct {
		args []string
		path Path
	}{
		{[]string{"-i", l.Link.B.Dev}, PathUnknown},
		{[]string{"-i", "any", "-y", "LINUX_SLL"}, Received},
		{[]string{"-i", "any", "-y", "LINUX_SLL2", "--time-stamp-precision=nano"}, Received},
	} {
		file := filepath.Join(t.TempDir(), "x.pcap")
		await := startTcpdump(t, l.Host, tcpdump, append(tt.args, "-w", file, "-c", fmt.Sprint(len(want)), "dst", "port", "23"))
		l.Internet.Send(packets...)
		await()
		checkFile(t, file, tt.path, want)
		for _, format := range []string{"pcapng", "nsecpcap"} {
			if out, err := exec.CommandContext(t.Context(), editcap, "-F", format, file, file+"."+format).CombinedOutput(); err != nil {
				t.Fatalf("editcap: %v: %s", err, out)
			}
			checkFile(t, file+"."+format, tt.path, want)
		}
	}
}

// startTcpdump returns when tcpdump listens. The function that it returns waits
// for its end.
func startTcpdump(t *testing.T, h *netnstest.Host, path string, args []string) (await func()) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, append([]string{"-n", "-p", "-U", "--immediate-mode", "-Z", "root"}, args...)...)
	stderr, err := cmd.StderrPipe()
	h.Do(func() {
		if err == nil {
			err = cmd.Start()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "listening on"); {
		if line, err = said.ReadString('\n'); err != nil {
			t.Fatalf("tcpdump: %v after %q", err, line)
		}
	}
	return func() {
		rest, _ := io.ReadAll(said)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("tcpdump: %v: %s", err, rest)
		}
	}
}

func checkFile(t *testing.T, file string, path Path, want []string) {
	t.Helper()
	r, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range want {
		p, err := r.Read()
		if data := strings.TrimSuffix(string(p.Data), "\x00\x00\x00\x00\x00\x00"); err != nil || data != want[i] || p.Path != path { // Ethernet fills up to 60 bytes
			t.Errorf("%s: packet %d is %x, path %d, %v\nwant %x, path %d", file, i, p.Data, p.Path, err, want[i], path)
		}
	}
	if p, err := r.Read(); err != io.EOF {
		t.Errorf("%s: %x, %v", file, p.Data, err)
	}
}
