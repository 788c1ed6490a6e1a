package main

import "time"

// kernelAccidents are what other programs, reboots and clocks do to the table,
// the state and the watcher.
var kernelAccidents = []accident{
	{
		name: "a rule that drops everything, put into the table by hand",
		by:   "the watcher, which repairs",
		conf: armed, before: func(s *scene) {
			applied(s)
			s.startWatcher()
		},
		out:     true,
		happens: func(s *scene) { s.NFT("", "insert", "rule", "inet", "portmon", "guard", "drop") },
		saves:   func(s *scene) { s.awaitLogin(adminAddr4, time.Now()) },
	},
}
