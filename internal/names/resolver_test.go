package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const home = "home.example.org"

func addrs(text ...string) (all []netip.Addr) {
	for _, s := range text {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// want fails the test unless the answer has these addresses and this TTL.
func (f *fixture) want(name string, ipv6 bool, ttl time.Duration, want ...netip.Addr) {
	f.t.Helper()
	got := f.lookup(name, ipv6)
	slices.SortFunc(got.Addrs, netip.Addr.Compare)
	if got.Err != "" || got.TTL != ttl || !slices.Equal(got.Addrs, want) {
		f.t.Errorf("%s, IPv6 %v: got %+v, want %v for %v", name, ipv6, got, want, ttl)
	}
}

func (f *fixture) wantError(name string, ipv6 bool, want string) {
	f.t.Helper()
	if got := f.lookup(name, ipv6); !strings.Contains(got.Err, want) || len(got.Addrs) > 0 || got.None {
		f.t.Errorf("%s, IPv6 %v: got %+v, want the error %q", name, ipv6, got, want)
	}
}

func TestLookup(t *testing.T) {
	f := newFixture(t)
	f.server.Set(home, 5*time.Minute, addrs("203.0.113.7", "203.0.113.8", "2001:db8::7")...)
	f.want(home, false, 5*time.Minute, addrs("203.0.113.7", "203.0.113.8")...)
	f.want(home, true, 5*time.Minute, addrs("2001:db8::7")...)
	f.want("HOME.example.org", false, 5*time.Minute, addrs("203.0.113.7", "203.0.113.8")...)

	f.server.Set(home, time.Second, addrs("203.0.113.9")...)
	f.want(home, false, time.Minute, addrs("203.0.113.9")...)
	f.server.Set(home, 48*time.Hour, addrs("203.0.113.9")...)
	f.want(home, false, time.Hour, addrs("203.0.113.9")...)

	f.want("in-hosts.example", false, time.Minute, addrs("203.0.113.77")...)
	if a, aaaa := f.server.Queries("in-hosts.example"); a+aaaa > 0 {
		t.Error("a name in /etc/hosts was asked for")
	}
	for _, none := range []outcome{
		f.lookup(home, true), f.lookup("other.example.org", false),
		f.lookup("in-hosts.example", true), f.lookup("v6.in-hosts.example", false),
	} {
		if !none.None {
			t.Errorf("no address: got %+v", none)
		}
	}
	f.server.Set("short.evil.example", time.Minute, addrs("203.0.113.66")...)
	if got := f.lookup("short", false); !got.None {
		t.Errorf("a name was searched for in other domains: got %+v", got)
	}
}

// An answer has none of the addresses that no packet from outside can have.
func TestLies(t *testing.T) {
	f := newFixture(t)
	lies := addrs("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.9", "169.254.7.7", "224.0.0.1", "255.255.255.255",
		"::", "::1", "fe80::7", "ff02::1", "::ffff:203.0.113.7", "::ffff:127.0.0.1")
	f.server.Set(home, time.Minute, lies...)
	f.wantError(home, false, "no packet from outside comes from")
	f.wantError(home, true, "no packet from outside comes from")
	f.server.Set(home, time.Minute, append(lies, addrs("203.0.113.7", "2001:db8::7")...)...)
	f.want(home, false, time.Minute, addrs("203.0.113.7")...)
	f.want(home, true, time.Minute, addrs("2001:db8::7")...)
}

// An answer that is too large for UDP comes by TCP.
func TestManyAddresses(t *testing.T) {
	f := newFixture(t)
	var many []netip.Addr
	for i := range 200 {
		many = append(many, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
	}
	f.server.Set(home, 2*time.Minute, many...)
	f.want(home, false, 2*time.Minute, many...)
	f.server.Behave(func(reply []byte, tcp bool) [][]byte {
		if tcp {
			return nil
		}
		return [][]byte{reply}
	})
	f.wantError(home, false, home)
}

func TestFailures(t *testing.T) {
	f := newFixture(t)
	f.server.Set(home, time.Minute, addrs("203.0.113.7")...)
	f.server.Behave(func(reply []byte, _ bool) [][]byte {
		reply[3] |= byte(dnsmessage.RCodeServerFailure)
		return [][]byte{reply}
	})
	f.wantError(home, false, "lookup "+home+" on 192.0.2.1:53: server misbehaving")
	f.server.Behave(func([]byte, bool) [][]byte { return nil })
	start := time.Now()
	f.wantError(home, false, "i/o timeout")
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("silence was an error after %v: /etc/resolv.conf says twice a second", took)
	}
}

// Messages that are not the answer are passed over, also if they come first.
func TestForgeries(t *testing.T) {
	f := newFixture(t)
	f.server.Set(home, 3*time.Minute, addrs("203.0.113.7")...)
	forge := func(change func(reply []byte) []byte) func([]byte, bool) [][]byte {
		return func(reply []byte, _ bool) [][]byte {
			forged := slices.Clone(reply)
			forged[len(forged)-1], forged[len(forged)-8] = 66, 1 // the address, and the TTL
			return [][]byte{change(forged), reply}
		}
	}
	for name, change := range map[string]func([]byte) []byte{
		"another id":       func(b []byte) []byte { b[0]++; return b },
		"another question": func(b []byte) []byte { b[13] = 'x'; return b },
		"a query":          func(b []byte) []byte { b[2] &^= 0x80; return b },
		"garbage":          func(b []byte) []byte { return []byte("garbage, and more than a header of it") },
		"nothing":          func(b []byte) []byte { return nil },
	} {
		f.server.Behave(forge(change))
		t.Run(name, func(t *testing.T) {
			f := *f
			f.t = t
			f.want(home, false, 3*time.Minute, addrs("203.0.113.7")...)
		})
	}
	f.server.Behave(func(reply []byte, _ bool) [][]byte { return [][]byte{reply[:len(reply)-3]} })
	f.wantError(home, false, "cannot unmarshal DNS message")
}

// A server that is slow or dead does not keep the next one from being asked.
func TestSecondServer(t *testing.T) {
	f := newFixture(t)
	f.files["/etc/resolv.conf"] = "nameserver 192.0.2.66\n" + f.files["/etc/resolv.conf"]
	f.server.Set(home, time.Minute, addrs("203.0.113.7")...)
	f.want(home, false, time.Minute, addrs("203.0.113.7")...)
	f.server.Behave(func(reply []byte, _ bool) [][]byte {
		time.Sleep(300 * time.Millisecond)
		return [][]byte{reply}
	})
	f.want(home, false, time.Minute, addrs("203.0.113.7")...)
}

func FuzzTTL(f *testing.F) {
	m := dnsmessage.Message{Header: dnsmessage.Header{Response: true}}
	name := dnsmessage.MustNewName(home + ".")
	m.Questions = []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
	for _, seconds := range []uint32{0, 300, 1 << 31} {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: seconds},
			Body:   &dnsmessage.AResource{},
		})
		seed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		if d := ttl(message); d < minTTL || d > maxTTL {
			t.Errorf("TTL %v", d)
		}
	})
}
