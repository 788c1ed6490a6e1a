package ruleset

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValidateNamesEveryFault(t *testing.T) {
	days := func(n ...int) (out []time.Duration) {
		for _, n := range n {
			out = append(out, time.Duration(n)*24*time.Hour)
		}
		return out
	}
	for name, tt := range map[string]struct {
		change func(*Spec)
		faults []string // the fields at fault, each as often as it is, and a part of the text; nil if there are none
	}{
		"default":                    {func(*Spec) {}, nil},
		"no table":                   {func(s *Spec) { s.Table = "" }, []string{"Table: "}},
		"table with a space":         {func(s *Spec) { s.Table = "port mon" }, []string{`"port mon"`}},
		"table that begins with a 4": {func(s *Spec) { s.Table = "4portmon" }, []string{"Table: "}},
		"table that breaks out":      {func(s *Spec) { s.Table = "a{}" }, []string{"Table: "}},
		"table with an umlaut":       {func(s *Spec) { s.Table = "pörtmon" }, []string{"Table: "}},
		"table with a NUL":           {func(s *Spec) { s.Table = "a\x00b" }, []string{"Table: "}},
		"table of 32 letters":        {func(s *Spec) { s.Table = strings.Repeat("a", 32) }, []string{"31"}},
		"table of 31 letters":        {func(s *Spec) { s.Table = strings.Repeat("Z", 31) }, nil},
		"every letter of a table":    {func(s *Spec) { s.Table = "aZ09_./-" }, nil},

		"no whitelist":              {func(s *Spec) { s.Whitelist = nil }, nil},
		"whitelist of hosts":        {func(s *Spec) { s.Whitelist = []netip.Prefix{prefix("192.0.2.7/32"), prefix("::/0")} }, nil},
		"overlapping whitelist":     {func(s *Spec) { s.Whitelist = []netip.Prefix{prefix("10.0.0.0/8"), prefix("10.0.0.0/9")} }, nil},
		"prefix with host bits":     {func(s *Spec) { s.Whitelist = []netip.Prefix{prefix("10.0.0.1/8")} }, []string{"Whitelist: 10.0.0.1/8"}},
		"zero prefix":               {func(s *Spec) { s.Whitelist = []netip.Prefix{{}} }, []string{"Whitelist: "}},
		"mapped prefix":             {func(s *Spec) { s.Whitelist = []netip.Prefix{prefix("::ffff:192.0.2.0/120")} }, []string{"Whitelist: "}},
		"two faults of a whitelist": {func(s *Spec) { s.Whitelist = []netip.Prefix{{}, prefix("10.0.0.0/8"), prefix("fe80::1/10")} }, []string{"Whitelist: ", "Whitelist: fe80::1/10"}},

		"no ports":                 {func(s *Spec) { s.TrapTCP, s.TrapUDP = nil, nil }, nil},
		"all ports":                {func(s *Spec) { s.TrapTCP, s.TrapUDP = []Ports{{1, 65535}}, []Ports{{1, 65535}} }, nil},
		"same port of TCP and UDP": {func(s *Spec) { s.TrapTCP, s.TrapUDP = []Ports{{53, 53}}, []Ports{{53, 53}} }, nil},
		"adjacent ranges":          {func(s *Spec) { s.TrapTCP = []Ports{{10, 20}, {21, 30}, {1, 9}} }, nil},
		"port 0":                   {func(s *Spec) { s.TrapTCP = []Ports{{0, 0}} }, []string{"TrapTCP: 0 "}},
		"range from 0":             {func(s *Spec) { s.TrapUDP = []Ports{{0, 9}} }, []string{"TrapUDP: 0-9"}},
		"range upside down":        {func(s *Spec) { s.TrapUDP = []Ports{{9, 8}} }, []string{"TrapUDP: 9-8"}},
		"the same port twice":      {func(s *Spec) { s.TrapTCP = []Ports{{23, 23}, {23, 23}} }, []string{"TrapTCP: 23 overlaps 23"}},
		"ranges that share a port": {func(s *Spec) { s.TrapTCP = []Ports{{20, 30}, {10, 20}} }, []string{"TrapTCP: 20-30 overlaps 10-20"}},
		"two ranges in another":    {func(s *Spec) { s.TrapTCP = []Ports{{1, 100}, {50, 60}, {70, 80}} }, []string{"TrapTCP: 50-60 overlaps 1-100", "TrapTCP: 70-80 overlaps 1-100"}},
		"a fault within a range":   {func(s *Spec) { s.TrapTCP = []Ports{{1, 100}, {20, 10}, {50, 60}} }, []string{"TrapTCP: 20-10 is not a range", "TrapTCP: 50-60 overlaps 1-100"}},
		"a range in another":       {func(s *Spec) { s.TrapUDP = []Ports{{1, 100}, {50, 60}} }, []string{"TrapUDP: 50-60 overlaps 1-100"}},

		"maxretry 0":                {func(s *Spec) { s.MaxRetry = 0 }, []string{"MaxRetry: 0 "}},
		"negative maxretry":         {func(s *Spec) { s.MaxRetry = -1 }, []string{"MaxRetry: "}},
		"highest maxretry":          {func(s *Spec) { s.MaxRetry = MaxRetryLimit }, nil},
		"higher maxretry":           {func(s *Spec) { s.MaxRetry = MaxRetryLimit + 1 }, []string{"MaxRetry: 1001 "}},
		"findtime that is not used": {func(s *Spec) { s.FindTime = 0 }, nil},
		"no findtime":               {func(s *Spec) { s.MaxRetry, s.FindTime = 2, 0 }, []string{"FindTime: 0s "}},
		"shortest findtime":         {func(s *Spec) { s.MaxRetry, s.FindTime = 2, MinBanTime }, nil},
		"shorter findtime":          {func(s *Spec) { s.MaxRetry, s.FindTime = 2, MinBanTime-1 }, []string{"FindTime: "}},
		"longest findtime":          {func(s *Spec) { s.MaxRetry, s.FindTime = 2, MaxFindTime }, nil},
		"longer findtime":           {func(s *Spec) { s.MaxRetry, s.FindTime = 2, MaxFindTime+1 }, []string{"FindTime: "}},

		"no ladder":            {func(s *Spec) { s.BanTime = nil }, []string{"BanTime: 0 steps"}},
		"8 steps":              {func(s *Spec) { s.BanTime = days(1, 2, 3, 4, 5, 6, 7, 8) }, nil},
		"9 steps":              {func(s *Spec) { s.BanTime = days(1, 2, 3, 4, 5, 6, 7, 8, 9) }, []string{"BanTime: 9 steps"}},
		"shortest and longest": {func(s *Spec) { s.BanTime = []time.Duration{MinBanTime, MaxBanTime} }, nil},
		"shorter and longer":   {func(s *Spec) { s.BanTime = []time.Duration{MinBanTime - 1, MaxBanTime + 1} }, []string{"BanTime: 99.", "BanTime: 87600h0m0."}},
		"descending ladder":    {func(s *Spec) { s.BanTime = days(3, 2, 4) }, []string{"BanTime: 2d after 3d"}},
		"level ladder":         {func(s *Spec) { s.BanTime = days(3, 3) }, []string{"BanTime: 3d after 3d"}},

		"the shortest forget": {func(s *Spec) { s.Forget = MinBanTime }, nil},
		"no forget":           {func(s *Spec) { s.Forget = 0 }, []string{"Forget: 0s "}},
		"a longer forget":     {func(s *Spec) { s.Forget = MaxBanTime + 1 }, []string{"Forget: "}},

		"no grace":        {func(s *Spec) { s.Grace = 0 }, nil},
		"longest grace":   {func(s *Spec) { s.Grace = MaxGrace }, nil},
		"longer grace":    {func(s *Spec) { s.Grace = MaxGrace + 1 }, []string{"Grace: "}},
		"too short grace": {func(s *Spec) { s.Grace = 1 }, []string{"Grace: 1ns "}},

		"scans off":                    {func(s *Spec) { s.Scan = Scan{} }, nil},
		"strict, no findtime":          {func(s *Spec) { s.Scan = Scan{Ports: 1} }, nil},
		"scans with no findtime":       {func(s *Spec) { s.Scan = Scan{Ports: 2} }, []string{"Scan.FindTime: 0s "}},
		"scans with a longer findtime": {func(s *Spec) { s.Scan.FindTime = MaxFindTime + 1 }, []string{"Scan.FindTime: "}},
		"negative scan ports":          {func(s *Spec) { s.Scan.Ports = -1 }, []string{"Scan.Ports: -1 "}},
		"more scan ports":              {func(s *Spec) { s.Scan.Ports = MaxRetryLimit + 1 }, []string{"Scan.Ports: 1001 "}},
		"ignored ports overlap":        {func(s *Spec) { s.Scan.Ignore = []Ports{{1, 9}, {9, 9}} }, []string{"Scan.Ignore: 9 overlaps 1-9"}},
		"ignored port that is a trap":  {func(s *Spec) { s.Scan.Ignore = []Ports{{23, 23}} }, nil},

		"subnets off":          {func(s *Spec) { s.Subnet4, s.Subnet6 = 0, 0 }, nil},
		"highest subnets":      {func(s *Spec) { s.Subnet4, s.Subnet6 = MaxRetryLimit, MaxRetryLimit }, nil},
		"subnets out of range": {func(s *Spec) { s.Subnet4, s.Subnet6 = -1, MaxRetryLimit+1 }, []string{"Subnet4: -1 ", "Subnet6: 1001 "}},

		"single6":                {func(s *Spec) { s.Single6 = []netip.Prefix{prefix("2001:db8::/32"), prefix("::/0")} }, nil},
		"single6 of IPv4":        {func(s *Spec) { s.Single6 = []netip.Prefix{prefix("192.0.2.0/24")} }, []string{"Single6: 192.0.2.0/24"}},
		"single6 with host bits": {func(s *Spec) { s.Single6 = []netip.Prefix{prefix("2001:db8::1/64")} }, []string{"Single6: 2001:db8::1/64"}},
		"mapped single6":         {func(s *Spec) { s.Single6 = []netip.Prefix{prefix("::ffff:192.0.2.0/120")} }, []string{"Single6: "}},
		"zero single6":           {func(s *Spec) { s.Single6 = []netip.Prefix{{}} }, []string{"Single6: "}},

		"own6":                {func(s *Spec) { s.Own6 = []netip.Prefix{prefix("2001:db8::/64"), prefix("2001:db8::/80")} }, nil},
		"own6 of IPv4":        {func(s *Spec) { s.Own6 = []netip.Prefix{prefix("192.0.2.0/24")} }, []string{"Own6: 192.0.2.0/24"}},
		"own6 with host bits": {func(s *Spec) { s.Own6 = []netip.Prefix{prefix("2001:db8::1/64"), {}} }, []string{"Own6: 2001:db8::1/64", "Own6: "}},

		"local ports upside down": {func(s *Spec) { s.LocalPorts = Ports{9, 8} }, []string{"LocalPorts: 9-8"}},
		"no local ports":          {func(s *Spec) { s.LocalPorts = Ports{} }, []string{"LocalPorts: 0"}},

		"prefix6 0":       {func(s *Spec) { s.Prefix6 = 0 }, []string{"Prefix6: 0 "}},
		"prefix6 1":       {func(s *Spec) { s.Prefix6 = 1 }, nil},
		"prefix6 128":     {func(s *Spec) { s.Prefix6 = 128 }, nil},
		"prefix6 129":     {func(s *Spec) { s.Prefix6 = 129 }, []string{"Prefix6: 129 "}},
		"size 0":          {func(s *Spec) { s.Size = 0 }, []string{"Size: 0 "}},
		"largest size":    {func(s *Spec) { s.Size = MaxSize }, nil},
		"larger size":     {func(s *Spec) { s.Size = MaxSize + 1 }, []string{"Size: "}},
		"log threshold 0": {func(s *Spec) { s.LogThreshold = 0 }, []string{"LogThreshold: 0 "}},
		"log group 0":     {func(s *Spec) { s.LogGroup = 0 }, nil},

		"everything at once": {func(s *Spec) {
			*s = Spec{Whitelist: []netip.Prefix{{}}, TrapTCP: []Ports{{0, 1}}, TrapUDP: []Ports{{2, 1}}, MaxRetry: 2000, Prefix6: -1}
		}, []string{"Table: ", "Whitelist: ", "TrapTCP: ", "TrapUDP: ", "MaxRetry: ", "FindTime: ", "BanTime: ", "Forget: ", "Prefix6: ", "Size: ", "LocalPorts: ", "LogThreshold: "}},
	} {
		t.Run(name, func(t *testing.T) {
			s := Default()
			tt.change(&s)
			err := s.Validate()
			var texts []string
			if err != nil {
				for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
					var fault *SpecError
					if !errors.As(e, &fault) || errors.Unwrap(fault) == nil || !strings.HasPrefix(e.Error(), fault.Field+": ") {
						t.Errorf("%v is not a *SpecError that begins with its field and has a cause", e)
					}
					texts = append(texts, e.Error())
				}
			}
			if !slices.EqualFunc(texts, tt.faults, strings.Contains) {
				t.Errorf("got %q, want faults with %q", texts, tt.faults)
			}
		})
	}
}

// TestValidSpecsAreValid also keeps the other tests from going on with a Spec
// that no kernel has seen.
func TestValidSpecsAreValid(t *testing.T) {
	all := specs()
	all["traps"], all["retry"] = trapSpec(), retrySpec(time.Second)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := all[name].Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPorts(t *testing.T) {
	for _, tt := range []struct {
		p       Ports
		text    string
		in, out []uint16
	}{
		{Ports{23, 23}, "23", []uint16{23}, []uint16{22, 24, 0, 65535}},
		{Ports{5900, 5910}, "5900-5910", []uint16{5900, 5905, 5910}, []uint16{5899, 5911}},
		{Ports{1, 65535}, "1-65535", []uint16{1, 65535}, []uint16{0}},
	} {
		if got := tt.p.String(); got != tt.text {
			t.Errorf("got %q, want %q", got, tt.text)
		}
		for _, port := range tt.in {
			if !tt.p.Contains(port) {
				t.Errorf("%v does not contain %d", tt.p, port)
			}
		}
		for _, port := range tt.out {
			if tt.p.Contains(port) {
				t.Errorf("%v contains %d", tt.p, port)
			}
		}
	}
}
