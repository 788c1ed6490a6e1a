package main

import (
	"errors"
	"io"
	"strings"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func (p *cli) applyCheck(c *nftset.Conn, conf *config.Config, facts route.Facts) error {
	r, err := ruleset.Prepare(c, conf.Spec)
	if conflicts := allOf[*ruleset.ConflictError](err); conflicts != nil {
		for _, conflict := range conflicts {
			p.print("inet %s: differs: %v\n", tableName, conflict)
		}
		return said(exitNotInForce)
	}
	if err != nil {
		return err
	}
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		return err
	}
	p.adviseOn(r, conf, facts)
	switch {
	case r.Current():
		p.print("inet %s: in force, as configured\n", tableName)
		return nil
	case !h.Exists:
		p.print("inet %s: not in force: there is no such table\n", tableName)
	case h.Idle() != "":
		p.print("inet %s: not in force: %s\n", tableName, h.Idle())
	default:
		p.print("inet %s: differs: %s\n", tableName, strings.Join(r.Summary(), ", "))
	}
	return said(exitNotInForce)
}

func (p *cli) applyDryRun(c *nftset.Conn, conf *config.Config, facts route.Facts) error {
	r, err := ruleset.Prepare(c, conf.Spec)
	if err != nil {
		return err
	}
	if r.Empty() {
		p.print("# inet %s: nothing would change\n", tableName)
	} else {
		p.print("# inet %s: this would change, in one transaction:\n", tableName)
	}
	err = errors.Join(r.Plan.Write(&commentWriter{w: p.out}), r.Table.Write(p.out))
	p.adviseOn(r, conf, facts)
	if err != nil {
		return said(exitFailed) // reported when the rest is flushed
	}
	return nil
}

// commentWriter makes every line a comment of nft's. It folds lines that are
// very long, such as the elements of a large set: the time that nft takes to
// read a comment grows with the square of its length.
type commentWriter struct {
	w      io.Writer
	column int
	buf    []byte
}

// foldColumn is where the next blank ends a line. No command is that long but
// those with elements.
const foldColumn = 1000

func (c *commentWriter) Write(b []byte) (int, error) {
	c.buf = c.buf[:0]
	for _, char := range b {
		if c.column == 0 {
			c.buf = append(c.buf, "# "...)
		}
		c.buf = append(c.buf, char)
		c.column++
		switch {
		case char == '\n':
			c.column = 0
		case char == ' ' && c.column >= foldColumn:
			c.buf = append(c.buf, "\n#   "...)
			c.column = 1
		}
	}
	if _, err := c.w.Write(c.buf); err != nil {
		return 0, err
	}
	return len(b), nil
}
