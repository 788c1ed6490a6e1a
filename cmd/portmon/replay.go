package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/replay"
	"github.com/portmon/portmon/internal/text"
)

func replayCommand(p *cli) *cobra.Command {
	var asJSON bool
	var open, hosts []string
	var iif string
	var ports []replay.Port
	var addrs []netip.Addr
	cmd := &cobra.Command{
		Use:   "replay FILE...",
		Short: "say what the table would have done with captured packets",
		Long: `Replay reads captures (pcap, pcapng) and kernel logs (ufw, iptables, nft; syslog
files, or the output of journalctl), plain or gzipped, and says what the table
of the configuration would have done: which sources it would have banned, at
which step of the ladder and why, what share of the SYNs to closed ports it
would have dropped, and when. It compares that with stricter and laxer settings,
lists the offenders that also used a service, whose bans may be false alarms,
and says how large the sets would have had to be.

The rules are evaluated exactly as they go to the kernel. Nothing is sent or
changed, and reading the files is the only privilege needed. Files are read in
the order of their first packets. The answers of this host show where programs
listen; logs have no answers, so use --open. A capture of Ethernet does not say
which addresses belong to this host: they are guessed, unless --host gives them.
Records that cannot be used are reported and skipped.`,
		Example: `  # day.pcap is what tcpdump -i eth0 -s 96 -w day.pcap has written
  portmon replay day.pcap
  portmon replay ufw.log* --open 22,443
  portmon replay day.pcap --json | jq '.settings[] | select(.configured)'`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		Args: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 0 {
				return errors.New("expected at least one file")
			}
			for _, s := range hosts {
				a, err := parseAddr(s)
				if err != nil {
					return fmt.Errorf("--host: %w", err)
				}
				addrs = append(addrs, a)
			}
			ports, err = parseOpen(open)
			return err
		},
		RunE: func(_ *cobra.Command, files []string) error {
			conf, err := config.Load(p.configFile)
			if err != nil {
				return err
			}
			debug.SetGCPercent(25) // sets hold no pointers, so collecting garbage costs less than keeping it
			r, err := replay.New(replay.Config{Spec: conf.Spec, Open: ports, Host: addrs, In: iif})
			if err != nil {
				return err
			}
			readErr := p.replayFiles(r, files)
			r.Finish()
			result := r.Result()
			switch {
			case readErr == nil && result.Packets == 0:
				return &hinted{fmt.Errorf("no packets in %s", text.Printable(strings.Join(files, ", "))),
					"of logs, only lines that the kernel's firewall writes are read"}
			case result.Packets == 0:
				return readErr
			case asJSON:
				err = p.json(result)
			default:
				p.printReplay(result)
			}
			if result.Certainty == replay.Uncertain {
				p.warn("whether %s is this host is not certain: too few others talked to it", firstOf(result.Addrs, 3))
				p.hint("name its addresses with --host, such as --host %s", result.Addrs[0])
			}
			if len(conf.Spec.Interfaces) > 0 && !result.Interfaces {
				p.warn("whitelist_interfaces has had no effect: the files do not say on which interface packets arrived")
				p.hint("name it with --iif, such as --iif %s", strings.TrimSuffix(conf.Spec.Interfaces[0], "*"))
			}
			if !result.Answers && len(ports) == 0 {
				p.warn("where programs listen is not known: the files have no answers of this host")
				p.hint("name the ports with --open, such as --open 22,443")
			}
			if result.Disorder > 0 {
				p.warn("%s out of order: files overlap, or a clock was set", text.Plural(result.Disorder, "packet"))
			}
			return errors.Join(err, readErr)
		},
	}
	cmd.Flags().StringSliceVar(&open, "open", nil, "a program listens on this `PORT`, or PORT/udp; may list several")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "this `ADDRESS` belongs to this host, and no others do; may list several")
	cmd.Flags().StringVar(&iif, "iif", "", "packets arrived on this `INTERFACE` where the files do not say")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	return cmd
}

// parseOpen reads ports such as "22" and "53/udp".
func parseOpen(list []string) (ports []replay.Port, err error) {
	for _, s := range list {
		number, proto, named := strings.Cut(s, "/")
		port := replay.Port{Proto: unix.IPPROTO_TCP}
		if proto == "udp" {
			port.Proto = unix.IPPROTO_UDP
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || named && proto != "tcp" && proto != "udp" {
			return nil, fmt.Errorf("--open: %q is not a port (1 to 65535), alone or with /tcp or /udp", s)
		}
		port.Number = uint16(n)
		ports = append(ports, port)
	}
	return ports, nil
}

// replayFiles reads files, those with earlier packets first.
func (p *cli) replayFiles(r *replay.Replay, files []string) error {
	files, err := inOrder(files)
	if err != nil {
		return err
	}
	bar := p.progress()
	defer bar.end()
	for i, name := range files {
		part := func(part float64) { bar.show(name, (float64(i)+part)/float64(len(files))) }
		if err := p.replayFile(r, name, part, bar.end); err != nil {
			return err
		}
	}
	return nil
}

// inOrder sorts files by the time of their first packet. If there are several,
// it opens each to find that, so they cannot be pipes.
func inOrder(files []string) ([]string, error) {
	type file struct {
		name  string
		first time.Time
	}
	var all []file
	for _, name := range files {
		if info, err := os.Stat(name); err != nil {
			return nil, err
		} else if !info.Mode().IsRegular() && len(files) > 1 {
			return nil, fmt.Errorf("read %s beside others: it is not a regular file", text.Printable(name))
		} else if len(files) == 1 {
			return files, nil
		}
		in, err := capture.Open(name)
		if err != nil {
			return nil, err
		}
		first, err := in.Read()
		for errors.As(err, new(*capture.DamageError)) {
			first, err = in.Read()
		}
		in.Close() // faults are reported when the file is read
		all = append(all, file{name, first.Time})
	}
	slices.SortStableFunc(all, func(a, b file) int { return a.first.Compare(b.first) })
	for i := range all {
		files[i] = all[i].name
	}
	return files, nil
}

const (
	maxDamages = 5       // that are reported one by one for a file
	barEvery   = 1 << 12 // packets
)

// replayFile replays a file. It shows how much has been read, and hides that
// while it warns.
func (p *cli) replayFile(r *replay.Replay, name string, show func(part float64), hide func()) error {
	in, err := capture.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	damages := 0
	defer func() {
		if more := damages - maxDamages; more > 0 {
			hide()
			p.warn("%s: %d more records cannot be used", name, more)
		}
	}()
	for n := 0; ; n++ {
		if n%barEvery == 0 {
			if read, size := in.Progress(); size > 0 {
				show(float64(read) / float64(size))
			}
		}
		packet, err := in.Read()
		switch {
		case err == nil:
			r.Add(&packet)
		case err == io.EOF:
			return nil
		case errors.As(err, new(*capture.DamageError)):
			if damages++; damages <= maxDamages {
				hide()
				p.warn("%v: passed over", err)
			}
		default:
			return err
		}
	}
}
