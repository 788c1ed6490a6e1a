package ruleset

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

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

// required is what not every kernel has, with a rule that needs it and nothing
// else that may be missing.
var required = []struct {
	feature, option string
	rule            Rule
}{
	{"connection tracking (ct expression)", "CONFIG_NFT_CT", rule(isReply)},
	{"routing look-ups (fib expression)", "CONFIG_NFT_FIB_INET", rule("fib saddr type local")},
	{"the listener test (socket expression)", "CONFIG_NFT_SOCKET, Linux 4.18 or later", rule("socket transparent 0")},
	{"limits (limit expression)", "CONFIG_NFT_LIMIT", rule("limit rate 1/week burst 1 packets")},
	{
		"log groups (log expression)", "CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG",
		rule(`log prefix "" group 0 snaplen 64 queue-threshold 1`),
	},
}

// Probe asks the kernel whether it has all that portmon needs. It changes
// nothing. What is missing is an *UnsupportedError; missing privilege is
// os.ErrPermission.
func Probe(c *nftset.Conn) error {
	t := nftset.Table{Family: nftset.FamilyINet, Name: "portmon-probe"}
	chain := Chain{Name: "probe", Hook: &Hook{Number: unix.NF_INET_PRE_ROUTING, Priority: guardPriority}}
	for _, r := range required {
		tx := &nftset.Tx{}
		tx.AddTable(t)
		addChain(tx, t, &chain)
		addRule(tx, t, chain.Name, r.rule)
		err := c.Check(tx)
		var errno unix.Errno
		switch {
		case err == nil:
		case !errors.As(err, &errno) || errno == unix.EPERM:
			return fmt.Errorf("probe the kernel: %w", err)
		default:
			return &UnsupportedError{r.feature, r.option, errno}
		}
	}
	return nil
}
