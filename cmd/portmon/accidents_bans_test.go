package main

// banAccidents are bans by hand, and by other programs.
var banAccidents = []accident{
	{
		name: "you ban the server's own address",
		by:   "`ban`, which refuses",
		conf: armed, before: inForce,
		happens: func(s *scene) { s.refused("ban 192.0.2.2") },
	},
	{
		name: "you ban your own network",
		by:   "`ban`, which refuses without `--force`",
		conf: armed, before: inForce,
		happens: func(s *scene) { s.refused("ban 203.0.113.0/24") },
	},
	{
		name: "you ban your own network, with `--force`",
		by:   "`allow --login`",
		conf: armed, before: careful,
		happens: func(s *scene) { s.mustLogin(adminAddr4, "portmon ban 203.0.113.0/24 --force") },
	},
	{
		name: "you ban the gateway, which translates your address",
		by:   "`ban`, which refuses without `--force`",
		conf: armed, before: behindGateway,
		happens: func(s *scene) {
			if out, code := s.try("portmon", "ban", gatewayAddr.String()); code == exitDone {
				s.Errorf("the gateway is banned: %s", out)
			}
		},
	},
	{
		name: "a script bans a /8",
		by:   "`allow --login`",
		conf: armed, before: careful,
		happens: func(s *scene) { s.does("portmon", "ban", "203.0.0.0/8", "--force") },
	},
	{
		name: "fail2ban bans you for mistyped passwords",
		by:   "`allow --login`",
		conf: armed, before: careful,
		happens: func(s *scene) { s.try("portmon", "ban", "--offence", adminAddr4.String()) },
	},
	{
		name: "another program adds you to the set of bans",
		by:   "`allow --login`",
		conf: armed, before: careful,
		happens: func(s *scene) {
			s.NFT("", "add", "element", "inet", tableName, "ban4", "{ "+adminAddr4.String()+" timeout 30d }")
		},
	},
}
