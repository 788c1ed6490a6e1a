package main

import (
	"fmt"
	"strings"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// applyCheck reports whether there is anything to apply, as status does.
func (p *cli) applyCheck(c *nftset.Conn, conf *config.Config, facts route.Facts) error {
	h, err := ruleset.Open(c, tableName)
	if err != nil {
		return err
	}
	r := newReport(h, nil)
	plan, err := r.compare(c, conf)
	if err != nil {
		return err
	}
	if plan.Plan != nil {
		p.adviseOn(plan, conf, facts)
	}
	r.printForce(&p.ui)
	if !*r.InForce {
		return exitCodeError(exitNotInForce)
	}
	return nil
}

// applyDryRun writes the table as nft reads it, and as comments before it what
// would change.
func (p *cli) applyDryRun(c *nftset.Conn, conf *config.Config, facts route.Facts) error {
	r, err := ruleset.Prepare(c, conf.Spec)
	if err != nil {
		return err
	}
	heading := "nothing would change"
	if !r.Empty() {
		heading = "this would change, in one transaction:"
	}
	var changes strings.Builder
	if err := r.Plan.Write(&changes); err != nil {
		return fmt.Errorf("write what would change: %w", err)
	}
	p.print("# inet %s: %s\n%s", tableName, heading, comments(changes.String()))
	if err = r.Table.Write(p.out); err != nil {
		err = exitCodeError(exitFailed) // reported when the rest is flushed
	}
	p.adviseOn(r, conf, facts)
	return err
}

// foldColumn is where the next blank ends a line of comments. Only commands with
// elements are that long.
const foldColumn = 1000

// comments makes every line a comment of nft's, and folds long ones, such as
// the elements of a large set: the time that nft takes to read a comment grows
// with the square of its length.
func comments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("# ")
		for len(line) > foldColumn {
			blank := strings.IndexByte(line[foldColumn:], ' ')
			if blank < 0 {
				break
			}
			b.WriteString(line[:foldColumn+blank+1] + "\n#   ")
			line = line[foldColumn+blank+1:]
		}
		b.WriteString(line)
	}
	return b.String()
}
