package main

import (
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kernelAccidents are what other programs, reboots and clocks do to the table,
// the state and the watcher, and resolvers and interfaces to an address.
var kernelAccidents = []accident{
	{
		name: "`nft flush ruleset`, and the bans come back",
		by:   "the watcher, which puts back who is allowed",
		conf: armed, before: inBannedNetwork,
		happens: func(s *scene) {
			s.FlushRuleset()
			s.awaitRepair()
		},
	},
	{
		name: "another program makes the table dormant, and the watcher wakes it",
		by:   "`allow --login`",
		conf: armed, before: inBannedNetwork,
		happens: func(s *scene) {
			s.NFT("add table inet portmon { flags dormant; }")
			s.awaitRepair()
		},
	},
	{
		name: "an old saved ruleset is loaded, in which you are banned",
		by:   "the watcher, which puts back who is allowed",
		conf: armed, before: func(s *scene) {
			inForce(s)
			s.does("portmon", "ban", adminAddr4.String(), "--for", "30d")
			s.write("nftables.conf", "flush ruleset\n"+s.NFT("", "list", "ruleset"))
			s.does("portmon", "unban", adminAddr4.String())
			s.hook()
			s.mustLogin(adminAddr4, "true")
			s.startWatcher()
		},
		out: true,
		happens: func(s *scene) {
			s.signalWatcher(unix.SIGSTOP) // or it would have mended all before that can be seen
			s.NFT("", "-f", filepath.Join(s.dir, "nftables.conf"))
		},
		saves: func(s *scene) { s.signalWatcher(unix.SIGCONT) },
	},
	{
		name: "a rule that drops everything is put into the table by hand",
		by:   "the watcher, which repairs",
		conf: armed, before: guarded, out: true,
		happens: func(s *scene) {
			s.signalWatcher(unix.SIGSTOP)
			s.NFT("", "insert", "rule", "inet", tableName, "guard", "drop")
		},
		saves: func(s *scene) { s.signalWatcher(unix.SIGCONT) },
	},
	{
		name: "the state is damaged at boot, and your network is banned",
		by:   "a knock",
		conf: armed + knock, before: func(s *scene) { careful(s); s.banNetwork() },
		out: true,
		happens: func(s *scene) {
			s.rebootWith(exitDone, func(state string) string { return strings.ReplaceAll(state, adminAddr4.String(), "?") })
		},
		saves: func(s *scene) { s.knock(adminAddr4) },
	},
	{
		name: "the state is that of another host, where you are banned",
		by:   "`apply`, which refuses it",
		conf: armed, before: inForce,
		happens: func(s *scene) {
			s.does("portmon", "ban", adminAddr4.String(), "--for", "30d")
			s.rebootWith(exitDone, func(state string) string {
				s.write("etc/machine-id", randomID()+"\n")
				return state
			})
			inForce(s)
		},
	},
	{
		name: "the state is lost at boot, and then a trap port",
		by:   "the next login",
		conf: armed, before: func(s *scene) { careful(s) },
		happens: func(s *scene) {
			s.rebootWith(exitDone, func(string) string { return "" })
			s.mustLogin(adminAddr4, "true")
			inForce(s)
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "the clock is ten years ahead at boot, and nobody is allowed any more",
		by:   "a knock",
		conf: armed + knock, before: func(s *scene) {
			careful(s)
			s.does("portmon", "ban", "203.0.113.0/24", "--force", "--for", "forever")
			s.does("portmon", "ban", strangerAddr.String(), "--for", "forever")
		},
		out:     true,
		happens: func(s *scene) { s.rebootWith(exitDone, clockMoved(10*365*24*time.Hour)) },
		saves:   func(s *scene) { s.knock(adminAddr4) },
	},
	{
		name: "the watcher is killed, and then a trap port",
		by:   "`allow --login`, which needs no watcher",
		conf: armed, before: func(s *scene) { careful(s); s.startWatcher() },
		happens: func(s *scene) {
			s.kill(s.watcher)
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "the watcher hangs, you log in, and then a trap port",
		by:   "`allow --login`, which needs no watcher",
		conf: armed, before: func(s *scene) { s.hook(); inForce(s); s.startWatcher() },
		happens: func(s *scene) {
			s.signalWatcher(unix.SIGSTOP)
			s.mustLogin(adminAddr4, "true")
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "your address changes to one that is banned",
		by:   "a name, which the watcher follows",
		conf: followed, before: func(s *scene) {
			s.serveNames()
			inForce(s)
			s.startWatcher()
			s.awaitAllowed(adminAddr4)
			s.admin.AddAddr("eth0", changedAddr.String()+"/24")
			s.trap(s.admin, changedAddr)
		},
		out:     true,
		happens: func(s *scene) { s.names.Set(home, time.Minute, changedAddr) },
		saves: func(s *scene) {
			if !long { // it asks within a minute, but at once when it is started
				s.stopWatcher()
				s.startWatcher()
			}
		},
		from: changedAddr,
	},
	{
		name: "the resolver is dead, the host boots, and then a trap port",
		by:   "a name, whose addresses are remembered",
		conf: followed, before: named,
		happens: func(s *scene) {
			s.names.Behave(func([]byte, bool) [][]byte { return nil })
			s.reboot(exitDone)
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "the resolver is slow, and then a trap port",
		by:   "a name, whose addresses are kept",
		conf: followed, before: named,
		happens: func(s *scene) {
			s.names.Behave(func(reply []byte, _ bool) [][]byte { time.Sleep(5 * time.Second); return [][]byte{reply} })
			s.stopWatcher()
			s.startWatcher()
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "the resolver lies: no such name",
		by:   "a name, whose addresses are kept",
		conf: followed, before: func(s *scene) { named(s); s.banNetwork() },
		happens: func(s *scene) {
			s.names.Set(home, time.Minute)
			s.stopWatcher()
			s.startWatcher()
		},
	},
	{
		name: "a trap port, by your VPN",
		by:   "an interface, by which nobody is banned",
		conf: vpn, before: func(s *scene) { s.connectVPN(); inForce(s) },
		happens: func(s *scene) { s.trap(s.admin, vpnAddr) },
		from:    vpnAddr,
	},
}
