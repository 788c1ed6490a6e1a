package main

// configAccidents are configurations.
var configAccidents = []accident{
	{
		name: "a whitelist with a typo: 203.0.113.0/33",
		by:   "`apply`, which changes nothing",
		conf: "whitelist = [\"203.0.113.0/24\"]\n" + armed, before: applied,
		happens: func(s *scene) {
			s.configure("whitelist = [\"203.0.113.0/33\"]\n" + armed)
			s.exits(exitUsage, "portmon", "apply")
			s.trap(s.admin, adminAddr4)
		},
	},
}
