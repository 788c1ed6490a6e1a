package nftset

import (
	"errors"

	"github.com/portmon/portmon/internal/nfnl"
)

// Config holds the options of [Dial]. The zero value is for the calling
// thread's network namespace.
type Config struct {
	// NetNS is the file descriptor of the network namespace to talk to, or 0
	// for that of the calling thread. It is needed only during [Dial].
	NetNS int
}

// Conn is a netlink socket for nf_tables. It is for one goroutine at a time.
type Conn struct {
	wire   *nfnl.Conn
	seq    uint32
	dumped bool // a dump is being read, maybe from within a loop of the caller's
}

// errDumped keeps a loop over a dump from losing its answers to another
// request, and from waiting for them forever.
var errDumped = errors.New("the connection is in the midst of a dump: open another one for use inside of the loop")

// Dial opens a connection; nil stands for the zero Config. It needs no
// privilege, but nearly everything done with the connection needs CAP_NET_ADMIN
// in the user namespace that owns the network namespace.
func Dial(config *Config) (*Conn, error) {
	if config == nil {
		config = &Config{}
	}
	wire, err := nfnl.Dial(config.NetNS)
	if err != nil {
		return nil, err
	}
	return &Conn{wire: wire}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.wire.Close() }

// PortID returns the netlink port id of the connection, which is also the
// [Event.PortID] of its edits.
func (c *Conn) PortID() uint32 { return c.wire.PortID() }
