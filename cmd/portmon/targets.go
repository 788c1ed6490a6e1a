package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/addrlist"
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
	name    string // of the file
	wrong   []fault
	strict  bool
}

// fault is what is wrong with a line of a list, or with an argument.
type fault struct {
	line int
	err  error
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
	list := &targetList{targets: targets, strict: o.strict}
	if o.file == "" {
		if o.strict {
			return nil, usage(cmd, "--strict requires --file")
		}
		return list, nil
	}
	in, name := p.stdin, "standard input"
	if o.file != "-" {
		name = o.file
		f, err := openList(o.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	list.name = name
	for e, err := range addrlist.Read(in, maxListed) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if e.Err != nil {
			list.wrong = append(list.wrong, list.faultOf(e.Line, e.Text, badTarget(e.Text, e.Err)))
		}
		for _, prefix := range e.Prefixes {
			address := !strings.ContainsAny(e.Text, "/-")
			list.targets = append(list.targets, target{text: e.Text, prefix: prefix, address: address, line: e.Line})
		}
	}
	return list, nil
}

// openList opens a file or a pipe. A folder would only fail when it is read.
func openList(name string) (*os.File, error) {
	info, err := os.Stat(name)
	var failed *fs.PathError
	if errors.As(err, &failed) {
		failed.Op = "open" // which is what the user wants
	}
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", name)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(name)
}

// faultOf says where a line is and what is wrong with it: "list.txt:8: 10.1.2.3:
// whitelisted by 10.0.0.0/8".
func (l *targetList) faultOf(line int, entry string, err error) fault {
	reason := err.Error()
	for _, subject := range []string{entry, strconv.Quote(entry)} {
		reason = strings.TrimPrefix(reason, subject+" is ")
	}
	text := fmt.Sprintf("%s:%d: %s: %s", l.name, line, entry, reason)
	if h := hintFor(err); h != "" {
		return fault{line, &hinted{errors.New(text), h}}
	}
	return fault{line, errors.New(text)}
}

// skip takes out of a list what is refused, an error for each target, and
// reports that and the lines that are none. It returns an error if the rest is
// not to be done either: if it is wrong with an argument, or with --strict.
func (p *cli) skip(list *targetList, refused []error, verb string) error {
	wrong := list.wrong
	kept := list.targets[:0]
	for i, err := range refused {
		t := list.targets[i]
		switch {
		case err == nil:
			kept = append(kept, t)
		case t.line == 0:
			wrong = append(wrong, fault{0, fmt.Errorf("%s %s: %w", verb, t.text, err)})
		default:
			wrong = append(wrong, list.faultOf(t.line, t.text, err))
		}
	}
	list.targets = kept
	slices.SortStableFunc(wrong, func(a, b fault) int { return cmp.Compare(a.line, b.line) })
	var fatal []error
	skipped, last := 0, 0
	for _, w := range wrong {
		if list.strict || w.line == 0 {
			fatal = append(fatal, w.err)
			continue
		}
		if w.line == last {
			continue // another prefix of a range
		}
		last = w.line
		if skipped++; skipped <= fewTargets {
			p.note("skipped: %v", w.err)
		}
	}
	if len(fatal) > fewTargets {
		fatal = append(fatal[:fewTargets], fmt.Errorf("and %d more", len(fatal)-fewTargets))
	}
	if skipped > 0 {
		p.note("%s skipped", text.Plural(skipped, "line"))
	}
	if len(fatal) > 0 && list.name != "" {
		fatal = append(fatal, fmt.Errorf("nothing was %sned", verb))
	}
	return p.failEach(fatal)
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
