package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// targetOptions are the flags of commands that take lists.
type targetOptions struct {
	file   string
	strict bool
}

func (o *targetOptions) addFlags(cmd *cobra.Command, verb string) {
	cmd.Flags().StringVar(&o.file, "file", "", verb+" what a `FILE` lists, - for standard input")
	cmd.Flags().BoolVar(&o.strict, "strict", false, verb+" nothing if anything in the file is wrong")
	cobra.CheckErr(cmd.MarkFlagFilename("file"))
}

// targetList is what the user named: the arguments first, and then a file.
type targetList struct {
	targets []target
	// named is how many of them are arguments, of which none is skipped.
	named   int
	skipped int
	strict  bool
	said    int
}

const (
	// fewTargets is up to how many targets are each reported on.
	fewTargets = 20
	// maxListed bounds a file of targets, in bytes.
	maxListed = 256 << 20
)

// readTargets reads the arguments and the file.
func (p *cli) readTargets(cmd *cobra.Command, args []string, o targetOptions) (*targetList, error) {
	targets, err := parseTargets(cmd, args)
	if err != nil {
		return nil, err
	}
	list := &targetList{targets: targets, named: len(targets), strict: o.strict}
	if o.file == "" {
		if o.strict {
			return nil, usage(cmd, "--strict requires --file")
		}
		return list, nil
	}
	in, name := p.stdin, "standard input"
	if o.file != "-" {
		name = o.file
		f, err := openRegular(o.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	var wrong []error
	limited := &io.LimitedReader{R: in, N: maxListed + 1}
	for e, err := range config.ReadList(limited) {
		if err == nil && limited.N == 0 {
			err = fmt.Errorf("larger than %d MiB", maxListed>>20)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if e.Err != nil {
			wrong = append(wrong, fmt.Errorf("%s:%d: %w", name, e.Line, badTarget(e.Text, e.Err)))
		}
		for _, prefix := range e.Prefixes {
			list.targets = append(list.targets, target{e.Text, prefix, !strings.ContainsAny(e.Text, "/-")})
		}
	}
	return list, p.skip(list, wrong, "read")
}

// openRegular opens a file that has an end.
func openRegular(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", name)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(name)
}

// skip reports what is wrong with a list. It returns an error if the rest is
// not to be done either: if it is wrong with an argument, or with --strict.
// Errors belong to the targets, or to lines that are none.
func (p *cli) skip(list *targetList, wrong []error, verb string) error {
	var fatal []error
	skipped := list.skipped
	for i, err := range wrong {
		if err == nil {
			continue
		}
		if verb != "read" {
			err = fmt.Errorf("%s %s: %w", verb, list.targets[i].text, withHint(err))
		}
		if list.strict || verb != "read" && i < list.named {
			fatal = append(fatal, err)
			continue
		}
		list.skipped++
		if list.said++; list.said <= fewTargets {
			p.note("skipped: %v", err)
		}
	}
	if len(fatal) > fewTargets {
		fatal = append(fatal[:fewTargets], fmt.Errorf("and %d more", len(fatal)-fewTargets))
	}
	if list.skipped > max(skipped, fewTargets) {
		p.note("skipped %s in all", text.Plural(list.skipped, "line"))
	}
	return p.failEach(fatal)
}

// withHint adds the next step to a refusal, where the administrator can take
// one: loopback and the like are always whitelisted.
func withHint(err error) error {
	white, ok := errors.AsType[*ruleset.WhitelistedError](err)
	if !ok {
		return err
	}
	if a := white.Entry.From.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
		return err
	}
	return &hinted{err, "remove " + white.Entry.String() + " from the whitelist, then run `portmon apply`"}
}

// maxReason is the length of the longest comment that nft reads, in bytes.
const maxReason = 128

// checkReason refuses what nft could not read back: its comments stand in
// quotes, and there is no escaping.
func checkReason(s string, offence bool) error {
	longest := maxReason
	if offence {
		longest -= len(ruleset.OffenceMark)
	}
	switch {
	case len(s) > longest:
		return fmt.Errorf("--reason is %d bytes long: at most %d are possible", len(s), longest)
	case strings.ContainsFunc(s, func(r rune) bool { return r == '"' || !unicode.IsPrint(r) }) || !utf8.ValidString(s):
		return fmt.Errorf("--reason %s: must be printable text on one line, without double quotes", strconv.Quote(s))
	}
	return nil
}

// unbanOf returns the command that lifts a ban. For a range that is not a
// prefix, which is not portmon's work, only nft has one.
func unbanOf(e ruleset.Entry) string {
	if p, ok := e.Prefix(); ok {
		return "portmon unban " + text.Prefix(p)
	}
	return fmt.Sprintf("nft delete element inet %s %s '{ %s }'", tableName, e.Set, nftset.Interval(e.Interval))
}
