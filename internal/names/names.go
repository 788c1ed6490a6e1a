package names

import (
	"cmp"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// MaxNames is how many names are followed, and MaxAddrs how many addresses
	// of each count.
	MaxNames = 64
	MaxAddrs = 8

	// After a failure it is asked again soon, then less and less often.
	firstRetry, lastRetry = 5 * time.Second, 5 * time.Minute
)

// ErrNoAddress means that there is no such name, or that it has no address.
var ErrNoAddress = errors.New("there is no such name, or it has no address")

// Question is what to ask a resolver: for the addresses of a name in one family.
type Question struct {
	Name string
	IPv6 bool
}

// Answer is what it answered: no address if the name has none. Err is why that
// is not known, or why none of them counts.
type Answer struct {
	Addrs []netip.Addr
	TTL   time.Duration // for how long they are valid
	Err   error
}

// Names are the names that are followed. The zero value has none.
type Names struct{ hosts []*host }

type host struct {
	name       string
	ipv4, ipv6 family
	failures   uint64
	since      time.Time
}

// family is what is known of the addresses of a name in one family.
type family struct {
	askAt  time.Time
	asking bool
	answer []netip.Addr // the last one that had any
	before []netip.Addr // the one before
	good   bool         // no worse one came after it
	known  bool         // it has come to this program, rather than to one before
	failed int          // how often there was
	err    error        // why
}

// hostLabel matches a part of a host name, in lower case.
var hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Valid reports whether a name is that of a host, in full and in lower case.
func Valid(name string) bool {
	labels := strings.Split(name, ".")
	return len(name) <= 253 && !slices.ContainsFunc(labels, func(label string) bool { return !hostLabel.MatchString(label) }) &&
		strings.Trim(labels[len(labels)-1], "0123456789") != "" // 203.0.113.256 is no name
}

// Configure replaces the names that are followed. What is known of those that
// stay is kept; new ones are asked for at once.
func (n *Names) Configure(names []string) {
	hosts := make([]*host, len(names))
	for i, name := range names {
		hosts[i] = cmp.Or(n.host(name), &host{name: name})
	}
	n.hosts = hosts
}

func (n *Names) host(name string) *host {
	if i := slices.IndexFunc(n.hosts, func(h *host) bool { return h.name == name }); i >= 0 {
		return n.hosts[i]
	}
	return nil
}

func (h *host) family(ipv6 bool) *family {
	if ipv6 {
		return &h.ipv6
	}
	return &h.ipv4
}

// Next returns what to ask now, if there is something, or else for how long
// there is nothing. It must be answered by OnAnswer.
func (n *Names) Next(now time.Time) (q Question, ok bool, idle time.Duration) {
	var next *family
	for _, h := range n.hosts {
		for _, ipv6 := range []bool{false, true} {
			if f := h.family(ipv6); !f.asking && (next == nil || f.askAt.Before(next.askAt)) {
				next, q = f, Question{h.name, ipv6}
			}
		}
	}
	if next == nil || next.askAt.After(now) {
		if next != nil {
			return Question{}, false, next.askAt.Sub(now)
		}
		return Question{}, false, maxTTL
	}
	next.asking = true
	return q, true, 0
}

// OnAnswer handles an answer.
func (n *Names) OnAnswer(q Question, a Answer, now time.Time) {
	h := n.host(q.Name)
	if h == nil {
		return // it is not followed any more
	}
	f := h.family(q.IPv6)
	if f.asking, f.err = false, a.Err; f.err == nil && len(a.Addrs) == 0 {
		f.err = ErrNoAddress
	}
	if f.good = f.err == nil; !f.good {
		f.askAt = now.Add(min(firstRetry<<min(f.failed, 10), lastRetry))
		if f.failed++; h.err() != nil {
			h.failures++
		}
		return
	}
	had := h.addrs()
	f.before, f.answer = f.answer, bounded(a.Addrs)
	f.failed, f.known, f.askAt = 0, true, now.Add(a.TTL)
	if !slices.Equal(had, h.addrs()) {
		h.since = now
	}
}

// bounded returns the addresses that are kept of an answer. Whatever their order
// in it, they are the same.
func bounded(addrs []netip.Addr) []netip.Addr {
	addrs = slices.Compact(slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare))
	return slices.Clone(addrs[:min(len(addrs), MaxAddrs)]) // without the rest of a large answer
}

// addrs returns the addresses that count: the last answers come first, and in
// each the families take turns.
func (h *host) addrs() (all []netip.Addr) {
	for _, answers := range [][2][]netip.Addr{{h.ipv4.answer, h.ipv6.answer}, {h.ipv4.before, h.ipv6.before}} {
		for i := range MaxAddrs {
			for _, addrs := range answers {
				if i < len(addrs) && len(all) < MaxAddrs && !slices.Contains(all, addrs[i]) {
					all = append(all, addrs[i])
				}
			}
		}
	}
	return all
}

// err returns what is wrong with a name. One that has addresses of one family
// need not have any of the other.
func (h *host) err() error {
	none4, none6 := errors.Is(h.ipv4.err, ErrNoAddress), errors.Is(h.ipv6.err, ErrNoAddress)
	switch {
	case none4 && none6:
		return ErrNoAddress
	case none4:
		return h.ipv6.err
	case none6:
		return h.ipv4.err
	}
	return cmp.Or(h.ipv4.err, h.ipv6.err)
}

// Status is what is known of a name.
type Status struct {
	Name  string
	Addrs []netip.Addr // that count
	// Since is when they became these; zero if they are from before this program
	// was started.
	Since time.Time
	// Failures is how often there was no address that counts, and Err why there
	// is none now.
	Failures uint64
	Err      error
}

// Status returns what is known of each name, in the order of the configuration.
func (n *Names) Status() []Status {
	all := make([]Status, len(n.hosts))
	for i, h := range n.hosts {
		all[i] = Status{h.name, h.addrs(), h.since, h.failures, h.err()}
	}
	return all
}
