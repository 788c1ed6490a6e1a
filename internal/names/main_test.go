package names

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab/dnslab"
	"github.com/portmon/portmon/netnstest"
)

// The test binary is also a program that looks up what this variable says, so
// that all of it is in the namespaces of a host.
const questionVariable = "PORTMON_NAMES_TEST_QUESTION"

func TestMain(m *testing.M) {
	var q Question
	if text := os.Getenv(questionVariable); text == "" {
		os.Exit(netnstest.Main(m))
	} else if err := json.Unmarshal([]byte(text), &q); err != nil {
		panic(err)
	}
	a := Lookup(context.Background(), q)
	out := outcome{Addrs: a.Addrs, TTL: a.TTL}
	if a.Err != nil {
		out.Err, out.None = a.Err.Error(), a.Err == ErrNoAddress
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}

// outcome is an Answer as JSON.
type outcome struct {
	Addrs []netip.Addr
	TTL   time.Duration
	Err   string
	None  bool
}

// internet is where the servers are, and host where names are looked up.
type fixture struct {
	t              *testing.T
	internet, host *netnstest.Host
	server         *dnslab.Server
	files          map[string]string
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, internet: netnstest.NewHost(t, "internet"), host: netnstest.NewHost(t, "host")}
	link := netnstest.Connect(t, f.internet, f.host, "192.0.2.0/24")
	f.server = dnslab.Serve(t, f.internet)
	f.files = map[string]string{
		"/etc/resolv.conf": "search evil.example\n" + dnslab.Resolv(link.A.IPv4),
		"/etc/hosts":       "127.0.0.1 localhost\n203.0.113.77 in-hosts.example\n2001:db8::77 v6.in-hosts.example\n",
	}
	return f
}

// lookup looks up a name on the host.
func (f *fixture) lookup(name string, ipv6 bool) (out outcome) {
	f.t.Helper()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf(questionVariable+`={"Name": %q, "IPv6": %v}`, name, ipv6))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	dnslab.Within(f.t, f.host, f.files, func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), &out)
	}
	if err != nil {
		f.t.Fatalf("%v: %s", err, &stderr)
	}
	return out
}
