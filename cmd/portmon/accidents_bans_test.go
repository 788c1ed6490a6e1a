package main

// banAccidents are bans by hand, and by other programs.
var banAccidents = []accident{
	{
		name: "you ban the server's own address",
		by:   "`ban`, which refuses",
		conf: armed, before: applied,
		happens: func(s *scene) { s.refused("portmon", "ban", "192.0.2.2") },
	},
}

// refused fails the test unless a command refuses what it is asked.
func (s *scene) refused(args ...string) {
	s.Helper()
	if out, code := s.try(args...); code == exitDone {
		s.Errorf("%v is done: %s", args, out)
	}
}
