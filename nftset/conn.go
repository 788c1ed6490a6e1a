package nftset

import (
	"errors"

	"golang.org/x/sys/unix"

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
	wire *nfnl.Conn
	seq  uint32
	enc  encoder // the requests of ask
	busy bool    // answers are being read, maybe from within a loop of the caller's
}

// errBusy keeps a loop over a dump from losing its answers to another request.
var errBusy = errors.New("the connection is in the midst of a dump: open another one for use inside of the loop")

// errNoAnswer reports that the kernel gave none, and not for want of memory.
var errNoAnswer = errors.New("the kernel gave no answer")

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

// exchange sends the pieces as one datagram and calls f with the answers, until
// it returns an error. It returns ENOBUFS if answers were lost. What a failed
// exchange leaves unread is discarded by the next one.
func (c *Conn) exchange(f func(nfnl.Message) error, pieces ...[]byte) error {
	if c.busy {
		return errBusy
	}
	c.busy = true
	defer func() { c.busy = false }()
	if err := c.wire.Discard(); err != nil {
		return err
	}
	return c.wire.Exchange(f, pieces...)
}

// ask sends n requests of a type at once, each with the attributes that encode
// appends, and calls f with the answers that come. The error of f's argument is
// that of the kernel. It returns ENOBUFS if answers were lost; the first one
// never is.
func (c *Conn) ask(
	typ uint16, family Family, n int, encode func(e *encoder, i int), f func(i int, m nfnl.Message, err error) error,
) error {
	if c.busy {
		return errBusy
	}
	first := c.seq + 1
	c.enc.b = c.enc.b[:0]
	for i := range n {
		c.seq++
		at := c.enc.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, 0, family, c.seq)
		encode(&c.enc, i)
		c.enc.finish(at)
	}
	return c.exchange(func(m nfnl.Message) error {
		i := m.Seq - first
		if i >= uint32(n) {
			return nil
		}
		var err error
		if m.Type == unix.NLMSG_ERROR {
			err = m.Errno()
		}
		return f(int(i), m, err)
	}, c.enc.b)
}

// get asks for one object and calls f with the answer.
func (c *Conn) get(typ uint16, family Family, encode func(*encoder), f func(nfnl.Message) error) error {
	answered := false
	err := c.ask(typ, family, 1, func(e *encoder, _ int) { encode(e) }, func(_ int, m nfnl.Message, err error) error {
		if answered = true; err != nil {
			return err
		}
		return f(m)
	})
	if err == nil && !answered {
		return errNoAnswer
	}
	return err
}

// dump asks for a list of objects and calls f with each, until it returns an
// error.
func (c *Conn) dump(typ uint16, family Family, attrs []byte, f func(nfnl.Message) error) error {
	err := c.dumpOnce(typ, family, attrs, f)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	// There is an earlier dump of this connection, which the kernel stopped for
	// want of memory. It goes on, to its end, when any answer is read.
	if _, err := c.generation(); err != nil {
		return err
	}
	return c.dumpOnce(typ, family, attrs, f)
}

func (c *Conn) dumpOnce(typ uint16, family Family, attrs []byte, f func(nfnl.Message) error) error {
	c.seq++
	seq, done := c.seq, false
	var e encoder
	at := e.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_DUMP, family, seq)
	e.b = append(e.b, attrs...)
	e.finish(at)
	err := c.exchange(func(m nfnl.Message) error {
		switch {
		case m.Seq != seq:
			return nil
		case m.Type == unix.NLMSG_DONE || m.Type == unix.NLMSG_ERROR:
			err := m.Errno() // which the kernel may report only at the end
			done = err == nil
			return err
		}
		return f(m)
	}, e.b)
	switch {
	case done && errors.Is(err, unix.ENOBUFS):
		return nil // nothing of the dump was lost
	case err == nil && !done:
		return errNoAnswer
	}
	return err
}
