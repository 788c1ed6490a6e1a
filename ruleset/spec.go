package ruleset

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Limits of a Spec. They are what the kernel, or a table of sane size, can hold.
const (
	// MaxTiers bounds the ladder: each tier is one more set lookup for every packet of an innocent source.
	MaxTiers = 8
	// MaxBanTime bounds every timeout. The kernel keeps timeouts in milliseconds and refuses what does not fit its jiffies.
	MaxBanTime = 10 * 365 * 24 * time.Hour
	// MinBanTime is the shortest timeout that the kernel does not round to "never expires" on any HZ.
	MinBanTime = 100 * time.Millisecond
	// MaxSize bounds the elements of one set; a ban costs the kernel roughly 200 bytes.
	MaxSize = 16 << 20
	// MaxFindTime bounds FindTime: the limit that counts trap packets gives one back in a week.
	MaxFindTime = 7 * 24 * time.Hour
	// MaxRetryLimit bounds MaxRetry.
	MaxRetryLimit = 1000
)

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

// Spec says what the table is to be: plain data, no kernel behind it. The zero value is not valid; start from [Default].
type Spec struct {
	// Table names the table, family inet. It must be a valid nft identifier.
	Table string

	// Whitelist holds the prefixes that are never banned and never dropped, of both families, in any order; they may overlap.
	// Loopback and link-local are whitelisted whether they stand here or not.
	Whitelist []netip.Prefix

	// TrapTCP and TrapUDP are the trap ports. Ranges must not overlap.
	TrapTCP, TrapUDP []Ports

	// MaxRetry is the number of trap packets that makes a ban, 1 to [MaxRetryLimit]; FindTime is the time they must come within,
	// counted from the first. FindTime is not used when MaxRetry is 1.
	MaxRetry int
	FindTime time.Duration

	// BanTime is the ladder: the timeout of each tier's sets, shortest first, 1 to [MaxTiers] of them.
	BanTime []time.Duration

	// Prefix6 is the prefix length, 1 to 128 bits, by which IPv6 sources are banned.
	Prefix6 int

	// Size is the most elements that each ban set holds, 1 to [MaxSize].
	Size uint32

	// LogGroup is the netlink log group, 0 to 65535, which gets one message for each ban that the packet path makes.
	// LogThreshold is the number of messages that the kernel may hold back to send them together, 1 or more.
	LogGroup, LogThreshold uint16
}

// Default returns the Spec of a host that has no configuration.
func Default() Spec {
	p := netip.MustParsePrefix
	return Spec{
		Table: "portmon",
		// Private, carrier-grade NAT and unique local ranges: a container that knocks on a trap port of its own host would
		// otherwise lose its network.
		Whitelist: []netip.Prefix{
			p("10.0.0.0/8"), p("172.16.0.0/12"), p("192.168.0.0/16"), p("100.64.0.0/10"), p("fc00::/7"),
		},
		TrapTCP:      []Ports{{23, 23}, {445, 445}, {1433, 1433}, {2323, 2323}, {3389, 3389}, {5900, 5910}, {6379, 6379}},
		MaxRetry:     1,
		FindTime:     10 * time.Minute,
		BanTime:      []time.Duration{8 * time.Hour, 3 * 24 * time.Hour, 30 * 24 * time.Hour},
		Prefix6:      64,
		Size:         65536,
		LogGroup:     513,
		LogThreshold: 16,
	}
}

// SpecError is one fault of a Spec.
type SpecError struct {
	Field string // name of the field of Spec
	Err   error  // what is wrong with it, and what is allowed
}

func (e *SpecError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *SpecError) Unwrap() error { return e.Err }

// Validate returns nil, or every fault of the Spec, joined; each is a *SpecError.
func (s Spec) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &SpecError{field, fmt.Errorf(format, args...)})
	}
	if !validIdentifier(s.Table) {
		bad("Table", "%q is no nft identifier: a letter, then letters, digits, '_', '.', '/' or '-', at most 31 characters", s.Table)
	}
	for _, p := range s.Whitelist {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			bad("Whitelist", "%v is no network address of IPv4 or IPv6", p)
		}
	}
	validatePorts(s.TrapTCP, func(format string, args ...any) { bad("TrapTCP", format, args...) })
	validatePorts(s.TrapUDP, func(format string, args ...any) { bad("TrapUDP", format, args...) })
	if s.MaxRetry < 1 || s.MaxRetry > MaxRetryLimit {
		bad("MaxRetry", "%d is not in 1 to %d", s.MaxRetry, MaxRetryLimit)
	}
	if s.MaxRetry > 1 && (s.FindTime < MinBanTime || s.FindTime > MaxFindTime) {
		bad("FindTime", "%v is not in %v to %v", s.FindTime, MinBanTime, MaxFindTime)
	}
	if len(s.BanTime) < 1 || len(s.BanTime) > MaxTiers {
		bad("BanTime", "%d tiers: there must be 1 to %d", len(s.BanTime), MaxTiers)
	}
	for i, d := range s.BanTime {
		if d < MinBanTime || d > MaxBanTime {
			bad("BanTime", "%v is not in %v to %v", d, MinBanTime, MaxBanTime)
		}
		if i > 0 && d <= s.BanTime[i-1] {
			bad("BanTime", "%v after %v: each tier must be longer than the one before", d, s.BanTime[i-1])
		}
	}
	if s.Prefix6 < 1 || s.Prefix6 > 128 {
		bad("Prefix6", "%d is not in 1 to 128", s.Prefix6)
	}
	if s.Size < 1 || s.Size > MaxSize {
		bad("Size", "%d is not in 1 to %d", s.Size, MaxSize)
	}
	if s.LogThreshold < 1 {
		bad("LogThreshold", "0 is not in 1 to 65535")
	}
	return errors.Join(errs...)
}

func validatePorts(ports []Ports, bad func(format string, args ...any)) {
	sorted := slices.SortedFunc(slices.Values(ports), func(a, b Ports) int { return cmp.Compare(a.From, b.From) })
	var far Ports // of those before, the one that reaches furthest
	for _, p := range sorted {
		if p.From < 1 || p.To < p.From {
			bad("%v is no range of ports from 1 to 65535", p)
			continue
		}
		if p.From <= far.To {
			bad("%v overlaps %v", p, far)
		}
		if p.To > far.To {
			far = p
		}
	}
}

// validIdentifier follows nft's scanner: what it rejects could not be typed by anybody who wants to look at the table.
// NFT_TABLE_MAXNAMELEN is 256; 31 keeps the names of our sets short in every listing.
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
