package main

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// env is the world as the commands see it. Tests bring their own.
type env struct {
	stdout, stderr io.Writer
	getenv         func(key string) string
	// ancestorEnv is getenv of the nearest process that this one descends from and that has the variable.
	ancestorEnv func(key string) string
	// now is also where the time zone of what people read comes from.
	now  func() time.Time
	dial func() (*nftset.Conn, error)
	// listeners are the sockets of this host that wait for packets.
	listeners func() ([]listeners.Socket, error)
	// isTerminal tells whether w is one, and width how many columns it has, 0 if that is not known.
	isTerminal func(w io.Writer) bool
	width      func(w io.Writer) int
}

func systemEnv() env {
	return env{
		stdout:      os.Stdout,
		stderr:      os.Stderr,
		getenv:      os.Getenv,
		ancestorEnv: ancestorEnv,
		now:         time.Now,
		dial:        func() (*nftset.Conn, error) { return nftset.Dial(nil) },
		listeners:   listeners.Read,
		isTerminal:  isTerminal,
		width:       width,
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
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
	return int(size.Col)
}

// cli is one run of the program: the world, a voice, and the flags that all commands have.
type cli struct {
	env
	ui
	configFile string // --config; empty for the default path
}

// tableName is the name of the table, which no configuration changes.
var tableName = ruleset.Default().Table

// withTable calls f with a connection to the kernel and the state of the table. There being none is errNoTable.
func (p *cli) withTable(f func(c *nftset.Conn, s *ruleset.State) error) error {
	c, err := p.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := ruleset.Read(c, tableName)
	if err != nil {
		return err
	}
	if !s.Exists {
		return errNoTable
	}
	return f(c, s)
}

// loadConfig reads the configuration and says what is doubtful about it.
func (p *cli) loadConfig() (*config.Config, error) {
	conf, err := config.Load(p.configFile)
	if err != nil {
		return nil, err
	}
	for _, w := range conf.Warnings {
		p.warn("%v", w)
	}
	return conf, nil
}
