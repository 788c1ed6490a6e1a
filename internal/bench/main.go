// Command bench measures portmon beside nft, and beside the table that people
// write by hand, on the same work in one run.
//
//	go run ./internal/bench [-run REGEXP] [-count N] [-long] [-o FILE] [-portmon FILE] [TABLE.nft...]
//
// All is done in network namespaces, which end with the program; it must be
// root. Tables that are named, in nft syntax, are measured beside portmon's
// wherever packets are sent. They have sets ban4 and ban6, if they ban.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"

	"golang.org/x/sys/unix"
)

// bench is one run of the program.
type bench struct {
	count   int
	long    bool
	portmon string   // the binary
	dir     string   // for files, removed at the end
	tables  []string // files with more tables to measure
}

// measurement is one of the things that are measured.
type measurement struct {
	name string
	run  func(*bench, *scope) (*table, error)
}

var measurements = []measurement{
	{"warm", warm},
	{"cold", cold},
	{"scan", scan},
	{"flood", flood},
	{"load", load},
	{"unchanged", unchanged},
	{"ban", ban},
	{"list", list},
	{"watch", watch},
	{"restore", restore},
}

// selfCommands are what this program is when it measures itself, or for a part
// of portmon that no command has to itself.
var selfCommands = map[string]func(args []string) error{
	"meter": meter,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 {
		if command := selfCommands[args[0]]; command != nil {
			return command(args[1:])
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("must be root: what nft sends at once does not fit the socket buffers of others")
	}
	var b bench
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	only := flags.String("run", "", "run only measurements whose name matches the `regexp`")
	out := flags.String("o", "", "write the tables to this `file`")
	flags.IntVar(&b.count, "count", 7, "repeat what runs commands `n` times, and packets in proportion")
	flags.BoolVar(&b.long, "long", false, "also list 1,000,000 bans, some minutes for each repetition, and wait ten minutes after the flood")
	flags.StringVar(&b.portmon, "portmon", "", "measure this `file`; by default ./cmd/portmon is built")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b.tables = flags.Args()
	match, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	text, err := b.runAll(match)
	if _, werr := os.Stdout.Write(text); err == nil {
		err = werr
	}
	if *out != "" && err == nil {
		err = os.WriteFile(*out, text, 0o644)
	}
	return err
}

// runAll returns the tables of all measurements that match, those before an
// error included.
func (b *bench) runAll(match *regexp.Regexp) ([]byte, error) {
	var err error
	if b.dir, err = os.MkdirTemp("", "portmon-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM)
	go func() {
		s := <-interrupted
		os.RemoveAll(b.dir) // the namespaces, and what runs in them, end with the process
		fmt.Fprintln(os.Stderr, "bench:", s)
		os.Exit(1)
	}()
	if err := b.build(); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	head, err := header()
	if err != nil {
		return nil, err
	}
	io.WriteString(&text, head)
	for _, m := range measurements {
		if !match.MatchString(m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", m.name)
		err := within(func(t *scope) error {
			table, err := m.run(b, t)
			if err != nil {
				return err
			}
			return table.write(&text)
		})
		if err != nil {
			return text.Bytes(), fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return text.Bytes(), nil
}
