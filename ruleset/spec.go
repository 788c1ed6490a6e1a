package ruleset

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/text"
)

// Limits of a Spec. They are what the kernel, or a table of sane size, can
// hold.
const (
	// MaxSteps bounds the ladder. Each step is a set, and a rule that only
	// offenders reach.
	MaxSteps = 8
	// MaxBanTime bounds every timeout. The kernel keeps timeouts in
	// milliseconds and refuses what does not fit its jiffies.
	MaxBanTime = 10 * 365 * 24 * time.Hour
	// MinBanTime is the shortest timeout that the kernel does not round to
	// "never expires" on any HZ.
	MinBanTime = 100 * time.Millisecond
	// MaxSize bounds the elements of one ban set; a ban costs the kernel
	// roughly 200 bytes.
	MaxSize = 16 << 20
	// MaxFindTime bounds the time within which offences are counted: the
	// limits that count give one back in a week.
	MaxFindTime = 7 * 24 * time.Hour
	// MaxRetryLimit bounds MaxRetry, Scan.Ports, Subnet4 and Subnet6.
	MaxRetryLimit = 1000
	// MaxGrace bounds Grace: for so long is a trap without its listener not
	// armed.
	MaxGrace = time.Hour
)

// Spec says what the table is to be: plain data, no kernel behind it. The zero
// value is not valid; start from [Default].
type Spec struct {
	// Table names the table, family inet. It must be a valid nft identifier.
	Table string

	// Whitelist holds the prefixes that are never banned and never dropped, of
	// both families, in any order; they may overlap. Loopback, link-local and
	// unspecified addresses are whitelisted whether they are listed or not.
	Whitelist []netip.Prefix

	// Interfaces are names of network interfaces: packets that come in by them
	// are never offences and never dropped. A name that ends in * stands for all
	// that begin like it. The interfaces need not exist; at most
	// [MaxInterfaces].
	Interfaces []string

	// Observe has the table count, log and remember as ever, and drop nothing.
	// Where a table that observes is to drop from now on, [Apply] forgets what
	// it has observed, so that nobody is dropped for what was to have no
	// consequence.
	Observe bool

	// KeepObserved has Apply keep what was observed all the same. Like Own6 it is
	// no part of the digest.
	KeepObserved bool

	// Stays returns what stays in effect of a record that a table holds which has
	// only observed: what is from before it did. Without it that is what was
	// banned by hand; see [Record.ByHand]. It is no part of the digest either.
	Stays func(Record) Record `json:"-"`

	// Knock says how a source lets itself in.
	Knock Knock

	// TrapTCP and TrapUDP are the trap ports. Ranges must not overlap.
	TrapTCP, TrapUDP []Ports

	// Grace is how long a port stays untrapped after a program was last seen
	// listening on it, and how long no port is a trap after the table was
	// created; 0 to [MaxGrace].
	Grace time.Duration

	// MaxRetry is the number of packets to trap ports that makes an offence, 1
	// to [MaxRetryLimit]; FindTime is the time they must come within, counted
	// from the first. FindTime is not used when MaxRetry is 1.
	MaxRetry int
	FindTime time.Duration

	// Scan says when packets to closed ports are an offence.
	Scan Scan

	// BanTime is the ladder: how long a source is banned for its first offence,
	// its second, and so on; 1 to [MaxSteps] durations, shortest first.
	BanTime []time.Duration

	// Forget is how long an offence is remembered after its ban has ended.
	Forget time.Duration

	// Prefix6 is the prefix length, 1 to 128 bits, by which IPv6 sources are
	// banned. Single6 are prefixes whose addresses are banned one by one all
	// the same; the NAT64 prefixes of RFC 6052 and RFC 8215 and the networks
	// of this host's own addresses need not be listed.
	Prefix6 int
	Single6 []netip.Prefix

	// Own6 are IPv6 networks of this host's own addresses, whose addresses are
	// banned one by one; only those of up to 64 bits count. They come from the
	// routes of the host rather than from its configuration: they are no part
	// of the digest, and a table that holds more of them keeps them.
	Own6 []netip.Prefix

	// Subnet4 and Subnet6 are the number of sources of one IPv4 /24, or IPv6
	// /48, that must offend within a week for all of it to be banned, at most
	// [MaxRetryLimit]; 0 is off. Subnet6 has no effect unless Prefix6 is longer
	// than 48.
	Subnet4, Subnet6 int

	// Size is the most elements that each ban set holds, 1 to [MaxSize]. The
	// sets that remember offences hold twice as many, the set of probed ports
	// four times.
	Size uint32

	// Fleet is the most elements that each of the sets holds of what other hosts
	// ban, at most [MaxSize]; 0 is for a host that belongs to no fleet, whose table
	// has no such sets.
	Fleet uint32

	// NoReversePath4 and NoReversePath6 leave out the test for a route back to
	// the source. They are for hosts whose routes that test cannot judge.
	NoReversePath4, NoReversePath6 bool

	// LocalPorts is the range from which the kernel chooses the ports of
	// connections that this host opens: net.ipv4.ip_local_port_range.
	LocalPorts Ports

	// LogGroup is the netlink log group, 0 to 65535, which gets one message for
	// each ban that the packet path makes. LogThreshold is the number of
	// messages that the kernel may hold back to send them together, 1 or more.
	LogGroup, LogThreshold uint16
}

// Scan says when packets to closed TCP ports of this host are an offence.
type Scan struct {
	// Ports is the number of distinct closed ports that makes an offence, at
	// most [MaxRetryLimit]; 1 bans at the first, 0 is off.
	Ports int
	// FindTime is the time within which they must be asked for, counted from
	// the first. It is not used when Ports is 0 or 1.
	FindTime time.Duration
	// Ignore are ports that never count. Ranges must not overlap.
	Ignore []Ports
}

// Default returns the Spec of a host that has no configuration.
func Default() Spec {
	p := netip.MustParsePrefix
	return Spec{
		Table: "portmon",
		// Private, carrier-grade NAT and unique local ranges: a container that
		// sends to a trap port of its own host would otherwise lose its
		// network.
		Whitelist: []netip.Prefix{
			p("10.0.0.0/8"), p("172.16.0.0/12"), p("192.168.0.0/16"), p("100.64.0.0/10"), p("fc00::/7"),
		},
		TrapTCP: []Ports{
			{23, 23}, {81, 81}, {102, 102}, {111, 111}, {135, 135}, {139, 139}, {445, 445}, {502, 502}, {873, 873},
			{1080, 1080}, {1433, 1433}, {1521, 1521}, {1723, 1723}, {2323, 2323}, {2375, 2376}, {3128, 3128},
			{3389, 3389}, {4444, 4444}, {5038, 5038}, {5555, 5555}, {5900, 5910}, {5985, 5986}, {6379, 6379},
			{7547, 7547}, {8291, 8291}, {8545, 8545}, {8728, 8728}, {9200, 9200}, {11211, 11211}, {23023, 23023},
			{27017, 27017}, {60001, 60001},
		},
		Grace:    time.Minute,
		MaxRetry: 1,
		FindTime: 10 * time.Minute,
		Scan: Scan{
			Ports:    5,
			FindTime: 24 * time.Hour,
			Ignore:   []Ports{{80, 80}, {443, 443}, {8080, 8080}, {8443, 8443}},
		},
		BanTime:      []time.Duration{10 * time.Minute, 8 * time.Hour, 30 * 24 * time.Hour},
		Forget:       30 * 24 * time.Hour,
		Prefix6:      64,
		Subnet6:      8,
		Knock:        Knock{Within: 10 * time.Second, Allow: 10 * time.Minute},
		Size:         65536,
		LocalPorts:   Ports{32768, 60999},
		LogGroup:     513,
		LogThreshold: 16,
	}
}

// SpecError is one fault of a Spec.
type SpecError struct {
	Field string // name of the field of Spec: "BanTime", "Scan.Ports"
	Err   error  // what is wrong with it, and what is allowed
}

func (e *SpecError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *SpecError) Unwrap() error { return e.Err }

// Validate returns nil, or every fault of the Spec, joined; each is a
// *SpecError.
func (s Spec) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &SpecError{field, fmt.Errorf(format, args...)})
	}
	number := func(field string, n, low, high int) {
		if n < low || n > high {
			bad(field, "%d is not in %d to %d", n, low, high)
		}
	}
	duration := func(field string, d, low, high time.Duration) {
		if d < low || d > high {
			bad(field, "%v is not in %v to %v", d, low, high)
		}
	}
	if !validIdentifier(s.Table) {
		bad("Table", "%q is not an nft identifier: a letter, then letters, digits, '_', '.', '/' or '-', "+
			"at most 31 characters", s.Table)
	}
	for _, p := range s.Whitelist {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			bad("Whitelist", "%v is not a network address of IPv4 or IPv6", p)
		}
	}
	for _, list := range []struct {
		field    string
		prefixes []netip.Prefix
	}{{"Single6", s.Single6}, {"Own6", s.Own6}} {
		for _, p := range list.prefixes {
			if !p.IsValid() || p != p.Masked() || !p.Addr().Is6() || p.Addr().Is4In6() {
				bad(list.field, "%v is not an IPv6 network address", p)
			}
		}
	}
	for _, list := range []struct {
		field string
		ports []Ports
	}{{"TrapTCP", s.TrapTCP}, {"TrapUDP", s.TrapUDP}, {"Scan.Ignore", s.Scan.Ignore}} {
		validatePorts(list.ports, func(format string, args ...any) { bad(list.field, format, args...) })
	}
	validateInterfaces(s.Interfaces, func(format string, args ...any) { bad("Interfaces", format, args...) })
	s.Knock.validate(bad, duration)
	number("MaxRetry", s.MaxRetry, 1, MaxRetryLimit)
	if s.MaxRetry > 1 {
		duration("FindTime", s.FindTime, MinBanTime, MaxFindTime)
	}
	number("Scan.Ports", s.Scan.Ports, 0, MaxRetryLimit)
	if s.Scan.Ports > 1 {
		duration("Scan.FindTime", s.Scan.FindTime, MinBanTime, MaxFindTime)
	}
	if s.Grace != 0 {
		duration("Grace", s.Grace, MinBanTime, MaxGrace)
	}
	number("Subnet4", s.Subnet4, 0, MaxRetryLimit)
	number("Subnet6", s.Subnet6, 0, MaxRetryLimit)
	if len(s.BanTime) < 1 || len(s.BanTime) > MaxSteps {
		bad("BanTime", "%d steps: there must be 1 to %d", len(s.BanTime), MaxSteps)
	}
	for i, d := range s.BanTime {
		duration("BanTime", d, MinBanTime, MaxBanTime)
		if i > 0 && d <= s.BanTime[i-1] {
			bad("BanTime", "%s after %s: each step must be longer than the one before",
				text.Duration(d), text.Duration(s.BanTime[i-1]))
		}
	}
	duration("Forget", s.Forget, MinBanTime, MaxBanTime)
	number("Prefix6", s.Prefix6, 1, 128)
	if s.Size < 1 || s.Size > MaxSize {
		bad("Size", "%d is not in 1 to %d", s.Size, MaxSize)
	}
	if s.Fleet > MaxSize {
		bad("Fleet", "%d is not in 0 to %d", s.Fleet, MaxSize)
	}
	validatePorts([]Ports{s.LocalPorts}, func(format string, args ...any) { bad("LocalPorts", format, args...) })
	if s.LogThreshold < 1 {
		bad("LogThreshold", "0 is not in 1 to 65535")
	}
	return errors.Join(errs...)
}

func validatePorts(ports []Ports, bad func(format string, args ...any)) {
	sorted := slices.SortedFunc(slices.Values(ports), func(a, b Ports) int { return cmp.Compare(a.From, b.From) })
	var last Ports // of those before, the one that reaches highest
	for _, p := range sorted {
		if p.From < 1 || p.To < p.From {
			bad("%v is not a range of ports from 1 to 65535", p)
			continue
		}
		if p.From <= last.To {
			bad("%v overlaps %v", p, last)
		}
		if p.To > last.To {
			last = p
		}
	}
}

// validIdentifier follows nft's scanner: a name that it rejects could not be
// typed by anybody who wants to look at the table. NFT_TABLE_MAXNAMELEN is 256;
// 31 keeps the names of our sets short in every listing.
func validIdentifier(s string) bool {
	if s == "" || len(s) > 31 {
		return false
	}
	for i, c := range []byte(s) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		other := '0' <= c && c <= '9' || c == '_' || c == '.' || c == '/' || c == '-'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return true
}

// Ports is an inclusive range of ports, 1 ≤ From ≤ To ≤ 65535.
type Ports struct{ From, To uint16 }

// String returns "23" or "5900-5910", which is how nft writes it as well.
func (p Ports) String() string {
	if p.From == p.To {
		return strconv.Itoa(int(p.From))
	}
	return fmt.Sprintf("%d-%d", p.From, p.To)
}

// Contains reports whether port lies in the range.
func (p Ports) Contains(port uint16) bool { return p.From <= port && port <= p.To }
