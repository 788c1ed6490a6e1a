package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
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
  portmon replay ufw.log* --open 22,443,8000-8010
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
			debug.SetGCPercent(10) // sets hold no pointers, so collecting garbage costs less than keeping it
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
			if len(addrs) > 0 && result.Elsewhere > 0 {
				p.note("%s neither from nor to %s: passed over", text.Plural(result.Elsewhere, "packet"), firstOf(addrs, 3))
			}
			if few := result.Uncertain; len(few) > 0 {
				p.warn("whether %s is this host is not certain: too few others talked to it", firstOf(few, 3))
				example := ""
				if len(result.Addrs) <= 3 { // a router's capture has thousands
					example = ", such as --host " + strings.Join(mapped(result.Addrs, netip.Addr.String), ",")
				}
				p.hint("name its addresses with --host%s", example)
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
			if readErr == nil && len(addrs) > 0 && result.Elsewhere == result.Packets {
				readErr = &hinted{fmt.Errorf("no packet is from or to %s", firstOf(addrs, 3)), "give --host the addresses of the host that was captured, or leave it out"}
			}
			return errors.Join(err, readErr)
		},
	}
	cmd.Flags().StringSliceVar(&open, "open", nil, "a program listens on this `PORT`, PORT/udp or FROM-TO; may list several")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "this `ADDRESS` belongs to this host, and no others do; may list several")
	cmd.Flags().StringVar(&iif, "iif", "", "packets arrived on this `INTERFACE` where the files do not say")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	return cmd
}

// parseOpen reads ports such as "22", "8000-8010" and "53/udp".
func parseOpen(list []string) (ports []replay.Port, err error) {
	for _, s := range list {
		numbers, proto, named := strings.Cut(s, "/")
		open := replay.Port{Proto: unix.IPPROTO_TCP}
		if proto == "udp" {
			open.Proto = unix.IPPROTO_UDP
		}
		all, err := config.ParsePorts(numbers)
		if err != nil || named && proto != "tcp" && proto != "udp" {
			return nil, fmt.Errorf("--open: %q is not a port (1 to 65535) or a range such as 8000-8010, alone or with /tcp or /udp", s)
		}
		for n := int(all.From); n <= int(all.To); n++ {
			open.Number = uint16(n)
			ports = append(ports, open)
		}
	}
	return ports, nil
}

// replayFiles reads files, those with earlier packets first.
func (p *cli) replayFiles(r *replay.Replay, files []string) error {
	files = mapped(files, func(name string) string {
		if name == "-" {
			return "/dev/stdin"
		}
		return name
	})
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
	damages, jumps := 0, 0
	defer func() {
		if more := damages - maxDamages; more > 0 {
			hide()
			p.warn("%s: %d more records cannot be used", text.Printable(name), more)
		}
		if more := jumps - maxDamages; more > 0 {
			hide()
			p.warn("%s: %d more times, time goes back by hours", text.Printable(name), more)
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
		case err == io.EOF && damages > n/2:
			return fmt.Errorf("read %s: %d of %d records cannot be used", text.Printable(name), damages, n)
		case err == io.EOF && jumps > n/2:
			return &hinted{fmt.Errorf("read %s: its packets are out of order: after %d of %d, time goes back by hours", text.Printable(name), jumps, n),
				"sort it by time, such as with Wireshark's reordercap; what was said means nothing"}
		case err == io.EOF:
			return nil
		case errors.Is(err, capture.ErrDisorder):
			r.Add(&packet)
			if jumps++; jumps <= maxDamages {
				hide()
				p.warn("%v", err)
			}
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
