package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/addrlist"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// target is an address or a prefix that the user named, as an argument or in a
// file.
type target struct {
	text   string // as it was written
	line   int    // of the file; 0 for an argument
	prefix netip.Prefix
	// address reports that it was an address: prefix holds it alone.
	address bool
	// source is the prefix to ban or unban: of an address the prefix by which it
	// is banned. See resolve.
	source netip.Prefix
	// err is why nothing is done with it.
	err error
}

// parseTarget reads an address, a prefix, or a range, which becomes one or more
// prefixes. Bits beyond the length of a prefix are dropped.
func parseTarget(s string) (targets []target, err error) {
	prefixes, err := addrlist.Parse(s)
	if err != nil {
		return nil, badTarget(s, err)
	}
	for _, p := range prefixes {
		targets = append(targets, target{text: s, prefix: p, address: isAddress(s)})
	}
	return targets, nil
}

// isAddress tells an address from a prefix or a range.
func isAddress(s string) bool { return !strings.ContainsAny(s, "/-") }

// badTarget explains an error of addrlist.
func badTarget(s string, err error) error {
	s = text.Shorten(s, 60)
	what := "address"
	switch {
	case errors.Is(err, addrlist.ErrSyntax):
		return fmt.Errorf("%q is not an IP address, a prefix or a range", s)
	case strings.Contains(s, "/"):
		what = "prefix"
	case strings.Contains(s, "-"):
		what = "range"
	}
	return fmt.Errorf("%q is not a valid %s: %w", s, what, err)
}

// parseTargets reads all arguments, and reports all that are wrong.
func parseTargets(cmd *cobra.Command, args []string) ([]target, error) {
	var targets []target
	var errs []error
	for _, arg := range args {
		t, err := parseTarget(arg)
		targets, errs = append(targets, t...), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usage(cmd, "%w", err)
	}
	return targets, nil
}

// resolve fills in the sources of targets that have no error.
func resolve(h *ruleset.Handle, targets []target) (err error) {
	for i := range targets {
		t := &targets[i]
		if t.source = t.prefix; t.address && t.err == nil {
			if t.source, err = h.Source(t.prefix.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

func sourcesOf(targets []target) []netip.Prefix {
	sources := make([]netip.Prefix, len(targets))
	for i, t := range targets {
		sources[i] = t.source
	}
	return sources
}

// name returns the source and, if that is not what the user wrote, why.
func (t target) name() string {
	p, err := netip.ParsePrefix(t.text)
	switch {
	case t.address && !t.source.IsSingleIP():
		return text.Prefix(t.source) + ", the network of " + t.prefix.Addr().String() + ","
	case err == nil && p != p.Masked():
		return text.Prefix(t.source) + ", the network of " + t.text + ","
	}
	return text.Prefix(t.source)
}

// targetList is what to ban or unban: the arguments first, and then what a file
// lists.
type targetList struct {
	targets []target
	verb    string // ban or unban
	file    string
	strict  bool // if anything is wrong, nothing is done
}

func (l *targetList) addFlags(cmd *cobra.Command) {
	l.verb = cmd.Name()
	cmd.Flags().StringVar(&l.file, "file", "", l.verb+" what a `FILE` lists, - for standard input")
	cmd.Flags().BoolVar(&l.strict, "strict", false, l.verb+" nothing if anything in the file is wrong")
	cobra.CheckErr(cmd.MarkFlagFilename("file"))
}

const (
	// fewTargets is up to how many targets are each reported on.
	fewTargets = 20
	// maxListed bounds a file of targets, in bytes.
	maxListed = 256 << 20
)

// read reads the arguments and the file. It notes that the file has no entries,
// if there are no arguments either.
func (l *targetList) read(p *cli, cmd *cobra.Command, args []string) (err error) {
	if l.targets, err = parseTargets(cmd, args); err != nil || l.file == "" && !l.strict {
		return err
	}
	in := p.stdin
	switch l.file {
	case "":
		return usage(cmd, "--strict requires --file")
	case "-":
		l.file = "standard input"
	default:
		f, err := os.Open(l.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	for e, err := range addrlist.Read(in, maxListed) {
		if err != nil {
			return fmt.Errorf("%s: %w", l.file, err)
		}
		t := target{text: e.Text, line: e.Line, address: isAddress(e.Text)}
		if e.Err != nil {
			if t.err = e.Err; e.Text != "" {
				t.err = badTarget(e.Text, e.Err)
			}
			l.targets = append(l.targets, t)
		}
		for _, t.prefix = range e.Prefixes {
			l.targets = append(l.targets, t)
		}
	}
	if len(l.targets) == 0 {
		p.note("nothing to %s: %s has no entries", l.verb, l.file)
	}
	return nil
}

// skip takes out of a list what is there twice, and what has an error, which it
// reports. It returns an error if nothing is left, or the rest is not to be done
// either: if an argument is wrong, or with --strict.
func (l *targetList) skip(p *cli) error {
	var fatal []error
	var dangerous *danger // that was skipped
	type entry struct {
		prefix  netip.Prefix
		address bool
	}
	seen := make(map[entry]bool, len(l.targets))
	kept, skipped, last := l.targets[:0], 0, 0
	for _, t := range l.targets {
		e := entry{t.prefix, t.address}
		switch {
		case t.err == nil && seen[e]:
		case t.err == nil:
			kept, seen[e] = append(kept, t), true
		case t.line == 0:
			fatal = append(fatal, fmt.Errorf("%s %s: %w", l.verb, t.text, t.err))
		case t.line == last: // another prefix of a range
		default:
			last = t.line
			err := fmt.Errorf("%s:%d: %w", l.file, t.line, t.err)
			if l.strict {
				fatal = append(fatal, err)
			} else if skipped++; skipped <= fewTargets {
				p.note("skipped: %v", err)
				errors.As(err, &dangerous)
			}
		}
	}
	l.targets = kept
	if skipped > 0 {
		p.note("%s skipped", text.Plural(skipped, "line"))
	}
	if dangerous != nil {
		p.hint("%s", dangerous.Hint())
	}
	if more := len(fatal) - fewTargets; more > 0 {
		fatal = append(fatal[:fewTargets], fmt.Errorf("and %d more", more))
	}
	switch {
	case len(fatal) > 0 && l.file != "":
		fatal = append(fatal, fmt.Errorf("nothing was %sned", l.verb))
	case len(fatal) == 0 && len(kept) == 0:
		return fmt.Errorf("nothing to %s", l.verb)
	}
	return p.failEach(fatal)
}
