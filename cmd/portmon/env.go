package main

import (
	"cmp"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// env is everything outside the program that commands use. Tests replace it.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(key string) string
	// sshPeer returns the address that the user is connected from by SSH.
	sshPeer func() (netip.Addr, bool)
	// now is also where the time zone of what people read comes from.
	now  func() time.Time
	dial func() (*nftset.Conn, error)
	// watcher connects to the watcher that listens on a socket.
	watcher func(socket string) (watcher, error)
	// listeners returns the sockets of this host that wait for packets of a
	// protocol, "tcp" or "udp".
	listeners func(proto string) ([]listeners.Socket, error)
	// routes returns what the routes of this host mean for the packet path.
	routes func() (route.Facts, error)
	// width returns how many columns a terminal has; 0 if w is not one.
	width func(w io.Writer) int
}

func systemEnv() env {
	return env{
		stdin:     os.Stdin,
		stdout:    os.Stdout,
		stderr:    os.Stderr,
		getenv:    os.Getenv,
		sshPeer:   sshPeer,
		now:       time.Now,
		dial:      func() (*nftset.Conn, error) { return nftset.Dial(nil) },
		watcher:   dialWatcher,
		listeners: listeners.Read,
		routes:    func() (route.Facts, error) { return route.Read(0) },
		width:     width,
	}
}

func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return cmp.Or(int(size.Col), 80) // a serial console does not know
}

// cli is one run of the program: its environment, its output, and the flags that
// all commands have.
type cli struct {
	env
	ui
	configFile string // --config; empty for the default path
	// written is the table as the configuration says it, without what hostFacts
	// adds.
	written ruleset.Spec

	// state is the file in which bans are remembered; empty if stateErr says why
	// it is not known. See findState.
	state    string
	stateErr error
	// databases are those that tell countries and networks.
	databases []string
	hangs     bool            // there is a watcher that does not answer
	learned   []stats.Offence // that are for the statistics
}

// tableName is the name of the table. No configuration changes it.
var tableName = ruleset.Default().Table

// open connects to the kernel and reads the state of the table, if it exists.
func (p *cli) open() (c *nftset.Conn, h *ruleset.Handle, err error) {
	if c, err = p.dial(); err != nil {
		return nil, nil, err
	}
	if h, err = ruleset.Open(c, tableName); err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, h, nil
}

// warnIdle warns if the bans of an existing table are not enforced.
func (p *cli) warnIdle(h *ruleset.Handle) {
	if why := h.Idle(); why != "" {
		p.warn("inet %s: not in force: %s", tableName, why)
		p.hint(runApply)
	}
}

// withTable calls f with the table, or returns errNoTable.
func (p *cli) withTable(f func(h *ruleset.Handle) error) error {
	c, h, err := p.open()
	if err != nil {
		return err
	}
	defer c.Close()
	if !h.Exists {
		return errNoTable
	}
	return f(h)
}
