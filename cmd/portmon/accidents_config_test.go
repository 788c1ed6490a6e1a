package main

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// configAccidents are configurations.
var configAccidents = []accident{
	{
		name: "a whitelist with a typo, 203.0.113.0/33",
		by:   "`apply`, which changes nothing",
		conf: yours, before: inForce,
		happens: func(s *scene) {
			s.configure(strings.Replace(yours, "/24", "/33", 1))
			s.exits(exitUsage, "portmon", "apply")
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "the first `apply --confirm`, and then a trap port",
		by:   "`--confirm`, which takes it back",
		conf: armed, before: func(*scene) {}, out: true, free: true,
		happens: func(s *scene) {
			s.tryOut(armed)
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "a whitelist with a typo, 203.0.133.0/24",
		by:   "`--confirm`, which takes it back",
		conf: yours, before: inForce, out: true,
		happens: mistake,
	},
	{
		name: "all TCP ports are traps, and your browser asks for one",
		by:   "`--confirm`, which takes it back",
		conf: armed, before: inForce, out: true,
		happens: func(s *scene) {
			s.tryOut("[trap]\ntcp = [\"1-65535\"]\ngrace = \"0s\"\n")
			s.probe(adminAddr4, 443)
		},
	},
	{
		name: "`apply --confirm` is killed in the countdown",
		by:   "`--confirm`, which takes it back all the same",
		conf: yours, before: guarded, out: true,
		happens: func(s *scene) {
			if err := unix.Kill(s.tryOut(others).pid, unix.SIGKILL); err != nil {
				s.Fatal(err)
			}
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "the terminal is closed in the countdown",
		by:   "`--confirm`, which takes it back all the same",
		conf: yours, before: inForce, out: true,
		happens: func(s *scene) {
			s.kill(s.tryOut(others).cmd)
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "a reboot in the countdown",
		by:   "the last good configuration",
		conf: yours, before: inForce,
		happens: func(s *scene) {
			mistake(s)
			s.reboot(exitUsage)
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "configuration management applies a table without you",
		by:   "`allow --login`",
		conf: yours, before: careful,
		happens: func(s *scene) {
			s.configure(others)
			s.does("portmon", "apply")
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "a whitelist file is missing at boot",
		by:   "the last good configuration",
		conf: "whitelist_files = [\"whitelist.txt\"]\n" + armed, before: func(s *scene) {
			s.write("etc/portmon/whitelist.txt", "203.0.113.0/24\n")
			inForce(s)
		},
		happens: func(s *scene) {
			s.remove("etc/portmon/whitelist.txt")
			s.bootsWrong()
		},
	},
	{
		name: "a faulty configuration at boot",
		by:   "the last good configuration",
		conf: yours, before: inForce,
		happens: func(s *scene) {
			s.configure("whitelist = [\"203.0.113.0/24\"\n")
			s.bootsWrong()
		},
	},
	{
		name: "the configuration is a folder at boot",
		by:   "the last good configuration",
		conf: yours, before: inForce,
		happens: func(s *scene) {
			s.remove("etc/portmon/portmon.toml")
			if err := os.Mkdir(filepath.Join(s.dir, "etc/portmon/portmon.toml"), 0o755); err != nil {
				s.Fatal(err)
			}
			s.bootsWrong()
		},
	},
	{
		name: "the configuration is empty at boot",
		by:   "`allow --login`, which is remembered",
		conf: yours, before: careful,
		happens: func(s *scene) {
			s.configure("")
			s.reboot(exitDone)
			s.arm()
			s.trap(s.admin, adminAddr4)
		},
	},
	{
		name: "the first day, with every port a trap and every packet a scan",
		by:   "`mode = \"observe\"`",
		conf: "mode = \"observe\"\n[trap]\ntcp = [\"1-65535\"]\ngrace = \"0s\"\n[scan]\nports = 1\n",
		before: func(s *scene) {
			s.does("portmon", "apply")
			s.trap(s.stranger, strangerAddr)
		},
		free: true,
		happens: func(s *scene) {
			s.trap(s.admin, adminAddr4)
			s.scan(s.admin, adminAddr4)
			if out := s.does("portmon", "why", adminAddr4.String()); !strings.Contains(out, "would be banned") {
				s.Errorf("observed is: %s", out)
			}
		},
	},
}
