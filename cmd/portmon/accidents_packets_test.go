package main

import (
	"fmt"
	"strings"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// packetAccidents are packets that the administrator sent, or seems to have
// sent.
var packetAccidents = []accident{
	{
		name: "a trap port, before you ever logged in",
		by:   "the other family of addresses, and `unban`",
		conf: armed, before: inForce, out: true,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
		saves:   func(s *scene) { s.mustLogin(adminAddr6, "portmon unban "+adminAddr4.String()) },
	},
	{
		name: "a trap port, without any precaution",
		by:   "waiting for a first step of 1m; the default is 10m",
		conf: armed + fmt.Sprintf("[ban]\nbantime = [%q, \"30d\"]\n", firstStep), before: func(s *scene) {
			s.does("portmon", "apply")
			s.does("portmon", "ban", strangerAddr.String(), "--for", "8h")
		},
		out:     true,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
	},
	{
		name: "a trap port, after a login",
		by:   "`allow --login`",
		conf: armed, before: careful,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
	},
	{
		name: "a trap port, by IPv6, after a login from another address of your network",
		by:   "`allow --login`",
		conf: armed, before: careful,
		happens: func(s *scene) {
			s.admin.AddAddr("eth0", "2001:db8:77::aaaa/64")
			s.trap(s.admin, privateAddr6)
		},
		from: privateAddr6,
	},
	{
		name: "a UDP trap port, after a login",
		by:   "`allow --login`",
		conf: "[trap]\nudp = [5060]\ngrace = \"0s\"\n", before: careful,
		happens: func(s *scene) { s.admin.Probe(netnstest.Datagram(adminAddr4, s.To(adminAddr4, 5060), "x")) },
	},
	{
		name: "you scan your own server",
		by:   "`allow --login`",
		conf: armed, before: careful,
		happens: func(s *scene) { s.scan(s.admin, adminAddr4) },
	},
	{
		name: "a colleague scans it, behind the address that you share",
		by:   "`allow`, by hand",
		conf: armed, before: func(s *scene) {
			inForce(s)
			s.mustLogin(adminAddr4, "portmon allow 203.0.113.1 --for 8h --reason office")
		},
		happens: func(s *scene) { s.scan(s.admin, adminAddr4) },
	},
	{
		name: "a stranger behind the hotel's address touches a trap port",
		by:   "a knock",
		conf: armed + knock, before: inForce, out: true,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
		saves:   func(s *scene) { s.knock(adminAddr4) },
	},
	{
		name: "packets to trap ports that somebody forges in your name",
		by:   "the whitelist",
		conf: yours, before: inForce,
		happens: func(s *scene) {
			for range 5 { // from where the stranger is
				s.stranger.Probe(netnstest.SYN(adminAddr4, s.To(adminAddr4, lab.TrapTCP)))
			}
		},
	},
	{
		name: "sshd restarts on a trap port while you connect",
		by:   "the grace",
		conf: "[trap]\ntcp = [22, 23]\ngrace = \"3s\"\n", before: func(s *scene) {
			s.does("portmon", "apply")
			lab.Await(s, "the traps are armed", func() bool {
				s.trap(s.stranger, strangerAddr)
				return s.stranger.Probe(netnstest.SYN(strangerAddr, s.To(strangerAddr, lab.OpenTCP))).Kind == netnstest.NoAnswer
			})
		},
		happens: func(s *scene) {
			s.reachable(adminAddr4)
			s.kill(s.sshd)
			if got := s.admin.Probe(netnstest.SYN(adminAddr4, s.To(adminAddr4, 22))); got.Kind != netnstest.AnswerRST {
				s.Errorf("while sshd restarts: %v", got)
			}
			s.startSSHD()
		},
	},
	{
		name: "three neighbours of your /24 touch traps, and all of it is banned",
		by:   "`allow --login`",
		conf: armed + "[ban]\nsubnet4 = 3\n", before: func(s *scene) { careful(s); s.startWatcher() },
		happens: func(s *scene) {
			s.neighbours(3, "203.0.113.%d")
			lab.Await(s, "the /24 is banned", func() bool {
				return strings.Contains(s.does("portmon", "list"), "203.0.113.0/24")
			})
		},
	},
	{
		name: "eight customers of your provider's /48 touch traps, and all of it is banned",
		by:   "a knock, by IPv6",
		conf: armed + knock, before: inForce, out: true,
		happens: func(s *scene) { s.neighbours(8, "2001:db8:77:%x::1") },
		saves:   func(s *scene) { s.knock(adminAddr6) },
		from:    adminAddr6,
	},
	{
		name: "a full set of bans, and then a trap port",
		by:   "a full set, which bans nobody",
		conf: armed + "[ban]\nsize = 16\n", before: func(s *scene) {
			inForce(s)
			s.fill("ban4", 15)
		},
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
	},
	{
		name: "a full set of offenders, and then a trap port",
		by:   "a knock",
		conf: armed + "[ban]\nsize = 16\n" + knock, before: func(s *scene) {
			inForce(s)
			s.fill("tier4_1", 31)
		},
		out:     true,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
		saves:   func(s *scene) { s.knock(adminAddr4) },
	},
	{
		name: "a full set of who is allowed, and then a trap port",
		by:   "a knock",
		conf: armed + knock, before: func(s *scene) {
			inForce(s)
			s.fill("allow4", 4096)
			s.hook()
			s.mustLogin(adminAddr4, "true")
		},
		out:     true,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
		saves:   func(s *scene) { s.knock(adminAddr4) },
	},
}
