package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// armed is a configuration whose traps need not wait for services to start.
const armed = "[trap]\ngrace = \"0s\"\n"

// applied puts the table in force, and has it ban the stranger.
func applied(s *scene) {
	s.Helper()
	s.does("portmon", "apply")
	s.trap(s.stranger, strangerAddr)
	s.strangerIs(netnstest.NoAnswer)
}

// packetAccidents are packets that the administrator sent, or seems to have
// sent.
var packetAccidents = []accident{
	{
		name: "a trap port, before you ever logged in",
		by:   "the other family of addresses, and `unban`",
		conf: armed, before: applied, out: true,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
		saves:   func(s *scene) { s.mustLogin(adminAddr6, "portmon unban "+adminAddr4.String()) },
	},
	{
		name: "a trap port, without any precaution",
		by:   fmt.Sprintf("waiting: a first step of %v", firstStep),
		conf: armed + fmt.Sprintf("[ban]\nbantime = [%q, \"30d\"]\n", firstStep), before: func(s *scene) {
			s.does("portmon", "apply")
			s.does("portmon", "ban", strangerAddr.String(), "--for", "8h")
		},
		out:     true,
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
	},
	{
		name: "packets to trap ports that somebody forges in your name",
		by:   "the whitelist",
		conf: "whitelist = [\"203.0.113.1\"]\n" + armed, before: applied,
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
		name: "a full set of bans, and then a trap port",
		by:   "a full set, which bans nobody",
		conf: armed + "[ban]\nsize = 16\n", before: func(s *scene) {
			applied(s)
			s.banMany(15)
		},
		happens: func(s *scene) { s.trap(s.admin, adminAddr4) },
	},
}

// banMany bans n addresses of strangers by hand.
func (s *scene) banMany(n int) {
	s.Helper()
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "198.19.%d.%d\n", i/256, i%256)
	}
	s.write("list", list.String())
	s.does("portmon", "ban", "--file", filepath.Join(s.dir, "list"))
}
