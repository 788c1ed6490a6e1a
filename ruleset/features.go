package ruleset

import (
	"errors"
	"fmt"
	"github.com/google/nftables/expr"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// Features is what a kernel can do of that which not every kernel can.
type Features struct {
	// Log: rules write to netlink log groups. Without it bans are made, but the
	// watcher learns of them only from dumps.
	Log bool
}

// allFeatures is what is assumed of a kernel until it refuses: asking first
// would cost every apply some 50 ms, because the kernel waits for a grace
// period whenever it takes a transaction back.
var allFeatures = Features{Log: true}

// Missing returns a sentence for each feature that is not there.
func (f Features) Missing() []string {
	var out []string
	if !f.Log {
		out = append(out,
			"no netlink log (CONFIG_NETFILTER_NETLINK_LOG): the watcher does not learn of bans as they are made")
	}
	return out
}

// UnsupportedError reports that the kernel lacks what portmon cannot do
// without. It is errors.ErrUnsupported.
type UnsupportedError struct {
	Feature string // "the listener test (socket expression)"
	Option  string // the kernel option that brings it, with the oldest version that has it
	Err     error  // what the kernel said
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the kernel lacks %s, which needs %s: %v", e.Feature, e.Option, e.Err)
}

// Unwrap returns what the kernel said.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// Is makes the error errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// probes are what is asked of the kernel, each as a rule of its own in a table
// that is never committed.
var probes = []struct {
	feature, option string
	statement       statement
	optional        func(*Features) *bool // nil if portmon cannot do without
}{
	{"connection tracking (ct expression)", "CONFIG_NFT_CT", isReply(), nil},
	{"routing look-ups (fib expression)", "CONFIG_NFT_FIB_INET", unroutable(), nil},
	{"the listener test (socket expression)", "CONFIG_NFT_SOCKET, Linux 4.18 or later", toSocket(0), nil},
	{"limits (limit expression)", "CONFIG_NFT_LIMIT",
		rate{1, expr.LimitTimeWeek, 1}.limit(), nil},
	{"", "", logTo("", 0, 1), func(f *Features) *bool { return &f.Log }},
}

// Probe asks the kernel what it can do. It changes nothing. Missing what
// portmon needs is an *UnsupportedError, missing privilege os.ErrPermission.
func Probe(c *nftset.Conn) (Features, error) {
	var f Features
	for _, p := range probes {
		err := probe(c, p.statement)
		var errno unix.Errno
		switch {
		case err == nil:
			if p.optional != nil {
				*p.optional(&f) = true
			}
		case !errors.As(err, &errno) || errno == unix.EPERM:
			return f, fmt.Errorf("probe the kernel: %w", err)
		case p.optional == nil:
			return f, &UnsupportedError{p.feature, p.option, errno}
		}
	}
	return f, nil
}

// probe checks whether a rule with the statement would load where the rules of
// offences are.
func probe(c *nftset.Conn, s statement) error {
	t := nftset.Table{Family: nftset.FamilyINet, Name: "portmon-probe"}
	chain := Chain{Name: "probe", Hook: &Hook{"prerouting", unix.NF_INET_PRE_ROUTING, guardPriority}}
	tx := &nftset.Tx{}
	tx.AddTable(t)
	if err := errors.Join(addChain(tx, t, &chain), addRule(tx, t, chain.Name, rule(s))); err != nil {
		return err
	}
	return c.Check(tx)
}
