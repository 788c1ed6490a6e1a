package bench

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// setOf returns a set of the table, portmon's or one written by hand, that holds
// sources: ban4 and ban6, and what remembers those that have offended.
func setOf(name string) *nftset.Set {
	s := &nftset.Set{Table: nftset.Table{Family: nftset.FamilyINet, Name: "portmon"}, Name: name}
	s.Type, s.Flags = nftset.IPv4Addr, nftset.FlagDynamic|nftset.FlagTimeout
	if strings.Contains(name, "6") {
		s.Type = nftset.IPv6Addr
	}
	return s
}

// site is a host, a link to it from where packets come, and portmon's
// configuration there, with a state file of its own.
type site struct {
	b           *testing.B
	link        *netnstest.Link // from A to B
	host        *netnstest.Host
	conn        *nftset.Conn // to the host's nf_tables
	toml, state string
}

// newSite makes a host without a table.
func newSite(b *testing.B, setSize int, config string) *site {
	outside, host := netnstest.NewHost(b, "outside"), netnstest.NewHost(b, "host")
	s := &site{b: b, host: host, link: netnstest.Connect(b, outside, host, "192.0.2.0/24", "2001:db8::/64")}
	host.DefaultVia(s.link.A.IPv4, s.link.A.IPv6)
	var err error
	s.conn, err = nftset.Dial(&nftset.Config{NetNS: host.FD()})
	check(b, err)
	dir, err := os.MkdirTemp("", "bench-") // short, as the path of a socket must be
	check(b, err)
	b.Cleanup(func() { s.conn.Close(); os.RemoveAll(dir) })
	s.state = filepath.Join(dir, "state.jsonl")
	s.toml = file(b, fmt.Sprintf("%s\n[ban]\nsize = %d\n[watch]\nstate = %q\n", config, setSize, s.state))
	return s
}

// standard is the size of the sets by default, and most bans the number that
// they are filled with.
const standard = 65536

// newBanned makes a host with portmon's table, n bans and a state file that has
// them.
func newBanned(b *testing.B, n int) *site {
	s := newSite(b, max(2*n, standard), "")
	s.portmon("apply")()
	s.fill("ban4", randomAddrs(n))
	s.portmon("save")()
	return s
}

// portmon returns what runs a command of portmon on the host and measures it.
func (s *site) portmon(args ...string) func() usage {
	return command(s.b, s.host, append([]string{*portmon}, append(args, "--config", s.toml)...)...)
}

// load has nft load a ruleset.
func (s *site) load(text string) {
	s.host.Do(func() {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			s.b.Fatalf("nft -f: %v: %.500s", err, out)
		}
	})
}

// remove deletes the table.
func (s *site) remove() {
	_, err := ruleset.Remove(s.conn, "portmon")
	check(s.b, err)
}

// renew deletes the table and the state, and installs an empty table.
func (s *site) renew() {
	s.remove()
	if err := os.Remove(s.state); !errors.Is(err, os.ErrNotExist) {
		check(s.b, err)
	}
	s.portmon("apply")()
}

// fill adds sources to a set, if the table has it.
func (s *site) fill(set string, addrs []netip.Addr) {
	if !s.has(set) {
		return
	}
	elems := make([]nftset.Element, len(addrs))
	for i, a := range addrs {
		elems[i] = nftset.Single(key(a))
		elems[i].Timeout = banTime
	}
	check(s.b, s.conn.AddSeq(setOf(set), slices.Values(elems)))
}

func (s *site) has(set string) bool {
	_, err := s.conn.Set(setOf(set).Table, set)
	if !errors.Is(err, os.ErrNotExist) {
		check(s.b, err)
	}
	return err == nil
}

// count returns how many elements some sets have, those that there are.
func (s *site) count(sets ...string) (sum int) {
	for _, set := range sets {
		n, err := s.conn.Count(setOf(set))
		if !errors.Is(err, os.ErrNotExist) {
			check(s.b, err)
		}
		sum += n
	}
	return sum
}

// whole runs what must leave n bans.
func (s *site) whole(n int, run func() usage) func() usage {
	return func() usage {
		u := run()
		if bans := s.count("ban4", "net4", "net6"); bans != n {
			s.b.Fatalf("%d bans, want %d", bans, n)
		}
		return u
	}
}

// The commands of this binary that are measured in the place of a program.

// dump asks the kernel for the elements of ban4 and drops the answers: what
// every list of bans costs at least.
func dump([]string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	// struct nlmsghdr, struct nfgenmsg, NFTA_SET_ELEM_LIST_TABLE and _SET, in the
	// byte order of amd64 and arm64.
	request := "\x2c\x00\x00\x00\x0d\x0a\x01\x03\x01\x00\x00\x00\x00\x00\x00\x00" + "\x01\x00\x00\x00" +
		"\x0c\x00\x01\x00portmon\x00" + "\x09\x00\x02\x00ban4\x00\x00\x00\x00"
	if err := unix.Sendto(fd, []byte(request), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for buf := make([]byte, 64<<10); ; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		for msg := buf[:n]; len(msg) > unix.SizeofNlMsghdr; msg = msg[(binary.NativeEndian.Uint32(msg)+3)&^3:] {
			switch msg[4] { // the type
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return errors.New("the kernel refused to dump ban4")
			}
		}
	}
}

// read and getMany read a number of bans, from a dump and by their keys.
func read(args []string) error    { return withConn(args, false) }
func getMany(args []string) error { return withConn(args, true) }

func withConn(args []string, known bool) error {
	want, err := strconv.Atoi(args[0])
	c, dialErr := nftset.Dial(nil)
	if err := cmp.Or(err, dialErr); err != nil {
		return err
	}
	elements := c.Elements(setOf("ban4"))
	if known {
		var keys []nftset.Key
		for _, a := range randomAddrs(want) {
			keys = append(keys, key(a))
		}
		elements = c.GetMany(setOf("ban4"), slices.Values(keys))
	}
	n := 0
	for _, err := range elements {
		if err != nil {
			return err
		}
		n++
	}
	if n != want {
		return fmt.Errorf("read %d elements, want %d", n, want)
	}
	return nil
}
