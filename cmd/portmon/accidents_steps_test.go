package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/dnslab"
	"github.com/portmon/portmon/netnstest"
)

// armed is a configuration whose traps need not wait for services to start, and
// that whitelists nobody.
const armed = "[trap]\ngrace = \"0s\"\n"

// inForce puts the table in force, and has it ban the stranger.
func inForce(s *scene) {
	s.Helper()
	s.does("portmon", "apply")
	s.trap(s.stranger, strangerAddr)
	s.strangerIs(netnstest.NoAnswer)
}

// careful is inForce for an administrator who has followed the manual and has
// logged in before.
func careful(s *scene) {
	s.Helper()
	inForce(s)
	s.hook()
	s.mustLogin(adminAddr4, "true")
	s.mustLogin(adminAddr6, "true")
}

// neighbours have n sources of a network offend.
func (s *scene) neighbours(n int, source string) {
	s.Helper()
	for i := range n {
		s.trap(s.admin, netip.MustParseAddr(fmt.Sprintf(source, 0x10+i)))
	}
}

// privateAddr6 is another address of the administrator.
var privateAddr6 = netip.MustParseAddr("2001:db8:77::aaaa")

// knock is a configuration, to be added to others.
const knock = "[knock]\ntcp = [7001, 9003, 8002]\n"

// knock knocks.
func (s *scene) knock(src netip.Addr) { s.Helper(); s.probe(src, 7001, 9003, 8002) }

// probe sends SYNs of the administrator to ports.
func (s *scene) probe(src netip.Addr, ports ...uint16) {
	s.Helper()
	for _, port := range ports {
		s.admin.Probe(netnstest.SYN(src, s.To(src, port)))
	}
}

// fill adds n addresses, no two of which are neighbours, to a set.
func (s *scene) fill(set string, n int) {
	s.Helper()
	var elements strings.Builder
	for i := range n {
		fmt.Fprintf(&elements, "198.19.%d.%d timeout 1h, ", i/128, 2*(i%128))
	}
	s.NFT(fmt.Sprintf("add element inet %s %s { %s }", tableName, set, elements.String()))
}

// hook has every login by SSH be allowed, by the line of the manual. PAM hands
// on nothing of the environment, so what it calls says where the test is.
func (s *scene) hook() {
	s.Helper()
	s.write("login", fmt.Sprintf("#!/bin/sh\nexport PATH=%q %s=%q\nexec portmon allow --login\n",
		s.bin+":"+os.Getenv("PATH"), homeVariable, os.Getenv(homeVariable)))
	file := filepath.Join(s.dir, "login")
	if err := os.Chmod(file, 0o755); err != nil {
		s.Fatal(err)
	}
	s.write("etc/pam.d/sshd", pam+"session optional pam_exec.so quiet type=open_session "+file+"\n")
}

// yours is a configuration that whitelists the administrator, and others is one
// that does not.
const (
	yours  = "whitelist = [\"203.0.113.0/24\", \"2001:db8:77::/64\"]\n" + armed
	others = "whitelist = [\"203.0.133.0/24\"]\n" + armed
)

// countdown is how long a trial waits for the word.
var countdown = map[bool]time.Duration{false: 5 * time.Second, true: time.Minute}[long]

// tried is a session on a terminal in which `apply --confirm` waits for the word.
type tried struct {
	*shell
	pid int
}

// tryOut applies a configuration on trial.
func (s *scene) tryOut(conf string) tried {
	s.Helper()
	sh := s.open(adminAddr4, true)
	s.configure(conf)
	sh.types(fmt.Sprintf("echo pid $$; exec portmon apply --confirm=%v", countdown))
	_, pid, _ := strings.Cut(sh.await(`\npid \d+`), "\npid ")
	sh.await("portmon confirm")
	n, err := strconv.Atoi(pid)
	if err != nil {
		s.Fatal(err)
	}
	return tried{sh, n}
}

// mistake is a trial of a table that does not whitelist the administrator, who
// then touches a trap.
func mistake(s *scene) {
	s.tryOut(others)
	s.trap(s.admin, adminAddr4)
}

// bootsWrong reboots with a faulty configuration, and touches a trap.
func (s *scene) bootsWrong() {
	s.Helper()
	s.reboot(exitUsage)
	s.trap(s.admin, adminAddr4)
}

func (s *scene) remove(name string) {
	s.Helper()
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		s.Fatal(err)
	}
}

// arm arms the traps of a new table.
func (s *scene) arm() {
	s.Helper()
	s.NFT("", "flush", "set", "inet", tableName, "starting")
}

// reboot is what a reboot is to portmon: no program that ran runs any more, the
// ruleset is empty, and the kernel has another boot id; then the units of the
// packages start, of which applying exits with a code. The network and the
// clocks are those of before.
func (s *scene) reboot(code int) {
	s.Helper()
	s.rebootWith(code, func(state string) string { return state })
}

const stateFile = "lib/portmon/state.jsonl"

// rebootWith is reboot where something changes the state meanwhile; without any
// it deletes the file.
func (s *scene) rebootWith(code int, change func(state string) string) {
	s.Helper()
	guarded := s.watcher != nil
	if guarded {
		s.stopWatcher()
	} else {
		s.does("portmon", "save")
	}
	s.killAll()
	s.FlushRuleset()
	s.newBootID()
	state, err := os.ReadFile(filepath.Join(s.dir, stateFile))
	if err != nil {
		s.Fatal(err)
	}
	if changed := change(string(state)); changed == "" {
		s.remove(stateFile)
	} else {
		s.write(stateFile, changed)
	}
	s.exits(code, "portmon", "apply", "--boot")
	if guarded {
		s.startWatcher()
	}
	s.startSSHD()
}

// clockMoved returns a change of the state, whose dates are those of a clock that
// has been moved since.
func clockMoved(by time.Duration) func(state string) string {
	return func(state string) string {
		return date.ReplaceAllStringFunc(state, func(text string) string {
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				panic(err)
			}
			return at.Add(-by).Format(time.RFC3339)
		})
	}
}

var date = regexp.MustCompile(`\b\d{4}-\d\d-\d\dT[\d:.]+Z`)

// killAll kills all programs of the server, detached ones included.
func (s *scene) killAll() {
	s.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(s.Host.FD(), &st); err != nil {
		s.Fatal(err)
	}
	ns := fmt.Sprintf("net:[%d]", st.Ino)
	lab.Await(s, "no program runs on the server", func() bool {
		found := false
		namespaces, _ := filepath.Glob("/proc/[0-9]*/ns/net")
		for _, file := range namespaces {
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			if at, err := os.Readlink(file); err == nil && at == ns && pid != os.Getpid() {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
		}
		return !found
	})
}

// gatewayAddr is the lab's internet, as the server sees it.
var gatewayAddr = netip.MustParseAddr("192.0.2.1")

// behindGateway is inForce where the gateway translates the administrator's
// address to its own.
func behindGateway(s *scene) {
	s.Helper()
	lab.NFT(s, s.Internet, `table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr 203.0.113.0/24 masquerade
	}
}`)
	inForce(s)
}

// guarded is inForce with a watcher.
func guarded(s *scene) { s.Helper(); inForce(s); s.startWatcher() }

// banNetwork bans the administrator's network.
func (s *scene) banNetwork() {
	s.Helper()
	s.does("portmon", "ban", "203.0.113.0/24", "--for", "1d", "--force")
}

// inBannedNetwork is careful, with a watcher, where the administrator would be
// out if he were not allowed.
func inBannedNetwork(s *scene) { s.Helper(); careful(s); s.banNetwork(); s.startWatcher() }

// awaitRepair returns when the table is as configured.
func (s *scene) awaitRepair() {
	s.Helper()
	lab.Await(s, "the table is in force", func() bool { _, code := s.try("portmon", "status"); return code == exitDone })
}

// awaitAllowed returns when an address is allowed.
func (s *scene) awaitAllowed(addr netip.Addr) {
	s.Helper()
	lab.Await(s, addr.String()+" is allowed", func() bool {
		return strings.Contains(s.does("portmon", "list", "--allowed"), addr.String())
	})
}

func (s *scene) signalWatcher(signal unix.Signal) {
	s.Helper()
	if err := s.watcher.Process.Signal(signal); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) stopWatcher() {
	s.Helper()
	s.signalWatcher(unix.SIGTERM)
	if err := s.watcher.Wait(); err != nil {
		s.Fatal(err)
	}
}

// The name of the administrator's address at home, a configuration that follows
// it, and the address that comes next.
const (
	home     = "home.example.org"
	followed = "whitelist_names = [\"" + home + "\"]\n" + armed
)

var changedAddr = netip.MustParseAddr("203.0.113.99")

// serveNames makes the gateway the resolver of the server.
func (s *scene) serveNames() {
	s.Helper()
	s.names = dnslab.Serve(s, s.Internet)
	s.names.Set(home, time.Minute, adminAddr4)
	s.write("etc/resolv.conf", dnslab.Resolv(gatewayAddr))
}

// named is inForce with a watcher that has followed the name.
func named(s *scene) {
	s.Helper()
	s.serveNames()
	guarded(s)
	s.awaitAllowed(adminAddr4)
}

// The administrator's address in a VPN, and a configuration for it.
var vpnAddr = netip.MustParseAddr("10.8.0.1")

const vpn = "whitelist = []\nwhitelist_interfaces = [\"eth1\"]\n" + armed

// connectVPN connects the administrator to the server by another link.
func (s *scene) connectVPN() {
	s.Helper()
	link := netnstest.Connect(s, s.admin, s.Host, "10.8.0.0/24")
	s.admin.AddRoute(s.Link.B.IPv4.String()+"/32", link.B.IPv4.String())
}

// refused fails the test unless a command refuses what it is asked, in a
// session of the administrator.
func (s *scene) refused(command string) {
	s.Helper()
	if out, err := s.login(adminAddr4, "portmon "+command); err == nil {
		s.Errorf("%s is done: %s", command, out)
	}
}

// trap sends a packet to a trap port.
func (s *scene) trap(from *netnstest.Host, src netip.Addr) {
	s.Helper()
	from.Probe(netnstest.SYN(src, s.To(src, lab.TrapTCP)))
}

// scan asks for closed ports.
func (s *scene) scan(from *netnstest.Host, src netip.Addr) {
	s.Helper()
	for port := uint16(9100); port < 9106; port++ {
		from.Probe(netnstest.SYN(src, s.To(src, port)))
	}
}

// strangerIs fails the test unless the stranger is answered, or not.
func (s *scene) strangerIs(want netnstest.AnswerKind) {
	s.Helper()
	got := s.stranger.Probe(netnstest.SYN(strangerAddr, s.To(strangerAddr, lab.OpenTCP)))
	if got.Kind != want {
		s.Errorf("the stranger gets %v, want %v", got, netnstest.Answer{Kind: want})
	}
}

// comeBy opens the session of the bystander.
func (s *scene) comeBy() {
	s.Helper()
	conn, err := s.Internet.Dial("tcp", bystanderAddr, s.To(bystanderAddr, lab.OpenTCP), lab.Patience)
	if err != nil {
		s.Fatal(err)
	}
	s.bystander = conn
	s.staysBy()
}

// staysBy fails the test unless the bystander's session works.
func (s *scene) staysBy() {
	s.Helper()
	_ = s.bystander.SetDeadline(time.Now().Add(lab.Patience)) // no error on an open socket
	if err := netnstest.Echo(s.bystander); err != nil {
		s.Errorf("the bystander's session: %v", err)
	}
}
