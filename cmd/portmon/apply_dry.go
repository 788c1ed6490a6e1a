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
func (p *cli) applyCheck() error {
	r, err := p.report()
	if err != nil {
		return err
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

// comments makes every line a comment of nft's. The time that nft takes to read
// one grows with the square of its length, so long ones, which are about the
// elements of a large set, are cut.
func comments(text string) string {
	const longest = 1000
	var b strings.Builder
	for line := range strings.Lines(text) {
		if len(line) > longest {
			line = line[:longest] + " ...\n"
		}
		b.WriteString("# " + line)
	}
	return b.String()
}
