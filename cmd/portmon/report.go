package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/internal/overview"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/internal/text"
)

// maxReportDays is for how long statistics are kept.
const maxReportDays = 400

func reportCommand(p *cli) *cobra.Command {
	var asJSON bool
	var html string
	var days int
	cmd := &cobra.Command{
		Use:   "report",
		Short: "report what the table did over the last days",
		Long: `Report shows what happened on each of the last days: packets dropped, new and
returning offenders, their ports, causes, countries and networks; who has
offended most, who may be banned by mistake, and which bans end soon. Countries
and networks are those of the databases in [geo].

With --html it writes a page to a file, for a mail or an archive: one file
without scripts that loads nothing. A - in place of the file is standard output.

Counting begins with the first portmon apply, watch or save. Packets are those
of the table's counters, to the packet. A running watcher notes each ban as it
is made; without one, portmon save and apply note the bans that there are, and
the ports stay unknown.`,
		Example: `  portmon report
  # a page for a mail or an archive
  portmon report --days 7 --html week.html`,
		Args: func(cmd *cobra.Command, args []string) error {
			return errors.Join(noArgs(cmd, args), noTwoOf(cmd, "html", "json"))
		},
		PreRunE: p.findState,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if days < 1 || days > maxReportDays {
				return usage(cmd, "--days %d: want a number from 1 to %d", days, maxReportDays)
			}
			r, err := p.makeReport(days)
			switch {
			case err != nil:
				return err
			case asJSON:
				return p.json(r)
			case html == "-":
				return r.WriteHTML(p.out)
			case html != "":
				return p.writeHTML(r, html)
			}
			return r.WriteText(p.out, p.terminal())
		},
	}
	cmd.Flags().IntVar(&days, "days", 30, "report on the last `N` days, today included")
	cmd.Flags().StringVar(&html, "html", "", "write a page to `FILE`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	cobra.CheckErr(cmd.MarkFlagFilename("html", "html"))
	return cmd
}

// makeReport gathers what is known.
func (p *cli) makeReport(days int) (*overview.Report, error) {
	if p.stateErr != nil {
		return nil, p.stateErr
	}
	c, h, err := p.open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, damage, err := stats.Read(p.state, p.now().Location())
	if err != nil {
		return nil, err
	}
	if text := damage.String(); text != "" {
		p.warn("%s", text)
	}
	places := p.places()
	defer places.Close()
	in := overview.Input{Days: days, Stats: s, Suspect: suspects(listeners.Users()), Locate: places.Of}
	in.Host, _ = os.Hostname()
	k := p.knowledge(h)
	if h.Exists {
		in.Mode = h.Mode()
		held, err := readKernel(h)
		if err != nil {
			return nil, err
		}
		for row := range k.Rows() {
			if now, _ := held.Get(row.Source); row.Banned && !now.Banned {
				k.Lift(row.Source)
			}
		}
		for row := range held.Rows() {
			k.Learn(row)
		}
		// Read after the file: it is not older than what that has counted.
		s.AddTable(stats.TableOf(h.State), false, p.now())
	}
	in.Rows, in.Clock = k.Book, book.ReadClock()
	in.Clock.Wall = p.now()
	return overview.New(in), nil
}

// carrierNAT is where providers give one address to many customers.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// suspects returns a function that says why a source may be banned by mistake:
// it has a connection to a service of this host, as uses says, or is in a network
// from which no strangers come.
func suspects(uses func(netip.Prefix) uint16) func(netip.Prefix) string {
	return func(p netip.Prefix) string {
		if port := uses(p); port != 0 {
			return fmt.Sprintf("uses tcp/%d", port)
		}
		switch a := p.Addr(); {
		case a.IsPrivate():
			return "in a private network"
		case a.IsLinkLocalUnicast():
			return "on a link of this host"
		case carrierNAT.Contains(a):
			return "behind a carrier's NAT"
		}
		return ""
	}
}

// terminal returns what standard output can show.
func (p *cli) terminal() overview.Terminal {
	styles := map[overview.Style]style{
		overview.Heading: bold, overview.Drops: green, overview.NewOnes: yellow, overview.Returning: red, overview.Warning: red,
	}
	t := overview.Terminal{Unicode: p.unicode()}
	if p.outColour {
		t.Paint = func(s string, as overview.Style) string { return paint(true, s, styles[as]) }
	}
	return t
}

// writeHTML replaces a file by a page. Its folder may belong to another user.
func (p *cli) writeHTML(r *overview.Report, file string) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	var page strings.Builder
	if err := r.WriteHTML(&page); err != nil {
		return err
	}
	d, err := folder.Open(filepath.Dir(path))
	if err == nil {
		defer d.Close()
		err = d.WriteShared(filepath.Base(path), []byte(page.String()))
	}
	if err != nil {
		return fmt.Errorf("write report %s: %w", file, err)
	}
	p.print("%s: %s, %s\n", text.Printable(path), text.Plural(len(r.Days), "day"), text.Plural(int(r.Total.Bans), "ban"))
	return nil
}
