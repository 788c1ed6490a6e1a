package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func whyCommand(p *cli) *cobra.Command {
	var asJSON bool
	q := query{proto: "tcp"}
	cmd := &cobra.Command{
		Use:   "why ADDR",
		Short: "explain what happens to packets from an address",
		Long: `Why reports whether an address is banned, since when, for how long and for what;
whether it is whitelisted, and by which entry; and what its next packet to a
trap port or to a closed port would do. It shows what is remembered of earlier
offences, and the closed ports that count against it. It asks the kernel and
changes nothing.

With --port it goes through the questions that the kernel would ask about a new
connection to that port, in the same order, and reports the verdict. It cannot
see what nftables rules of others, DNAT, or a packet mark would change.`,
		Example: `  portmon why 203.0.113.7
  portmon why 203.0.113.7 --port 3389
  portmon why 2001:db8:5:6::7 --json | jq -r .verdict`,
		ValidArgsFunction: p.completeBanned,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) != 1:
				return usage(cmd, "expected one address, got %d arguments", len(args))
			case q.port == 0 && cmd.Flags().Changed("port"):
				return usage(cmd, "--port: \"0\" is not a port (1 to 65535)")
			case q.proto != "tcp" && q.proto != "udp":
				return usage(cmd, "--proto must be tcp or udp")
			case q.port == 0 && (cmd.Flags().Changed("proto") || q.iif != "" || cmd.Flags().Changed("to")):
				return usage(cmd, "--proto, --iif and --to require --port")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.from, err = parseAddr(args[0]); err != nil {
				if t, e := parseTarget(args[0]); e == nil {
					return &usageError{fmt.Errorf("%s is not a single address", t[0].text), "`portmon list " + t[0].text + "` lists the bans in it"}
				}
				return usage(cmd, "%w", err)
			}
			if to := cmd.Flag("to"); to.Changed {
				if q.to, err = parseAddr(to.Value.String()); err != nil {
					return usage(cmd, "--to: %w", err)
				} else if q.to.Is4() != q.from.Is4() {
					return usage(cmd, "--to %s is of the other family", q.to)
				}
			}
			return p.withTable(func(c *nftset.Conn, h *ruleset.Handle) error {
				p.warnIdle(h)
				a, err := p.explain(c, h, q)
				switch {
				case err != nil:
					return fmt.Errorf("why %s: %w", q.from, err)
				case asJSON:
					return p.json(a)
				}
				a.print(p)
				return nil
			})
		},
	}
	cmd.Flags().Uint16Var(&q.port, "port", 0, "explain a packet to this `PORT`")
	cmd.Flags().StringVar(&q.proto, "proto", q.proto, "with --port: `PROTOCOL`, tcp (a SYN) or udp")
	cmd.Flags().StringVar(&q.iif, "iif", "", "with --port: it comes in by this `DEVICE` (default: by the one that leads to ADDR)")
	cmd.Flags().String("to", "", "with --port: it is sent to this `ADDR` (default: by which this host would answer)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	for name, values := range map[string][]cobra.Completion{"port": nil, "proto": {"tcp", "udp"}, "iif": nil, "to": nil} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	return cmd
}

// verdict is what happens to packets from an address.
type verdict string

const (
	banned      verdict = "banned"
	whitelisted verdict = "whitelisted" // bans have no effect
	ownAddress  verdict = "own_address" // never banned by the packet path
	notBanned   verdict = "not_banned"
)

// answer is what why reports. What is not known is left out.
type answer struct {
	Version int        `json:"version"`
	Table   string     `json:"table"`
	Address netip.Addr `json:"address"`
	// Source is the prefix that an offence of the address would ban.
	Source        netip.Prefix `json:"source"`
	Verdict       verdict      `json:"verdict"`
	WhitelistedBy string       `json:"whitelisted_by,omitempty"`
	Bans          []banJSON    `json:"bans"`
	// Tier is the step that the source was banned by last.
	Tier               int     `json:"tier,omitempty"`
	TierExpiresSeconds seconds `json:"tier_expires_seconds,omitempty"`
	// ProbedPorts are the closed ports that count against the source; with
	// ScanPorts of them it has offended.
	ProbedPorts []uint16 `json:"probed_ports,omitempty"`
	ScanPorts   int      `json:"scan_ports,omitempty"`
	TrapTCP     []string `json:"trap_tcp"`
	TrapUDP     []string `json:"trap_udp"`
	// ArmedInSeconds is when the traps are armed; 0 if they are.
	ArmedInSeconds seconds `json:"armed_in_seconds,omitempty"`
	// NextTier is the step that the next offence leads to, and NextBanSeconds
	// how long that bans. WouldBanSeconds is the same if one is possible now.
	NextTier        int     `json:"next_tier,omitempty"`
	NextBanSeconds  seconds `json:"next_ban_seconds,omitempty"`
	WouldBanSeconds seconds `json:"would_ban_seconds,omitempty"`
	// Watched reports that a watcher runs. Without one, what is said of
	// offences was noted by the last one, or by commands.
	Watched      bool          `json:"watched"`
	Offences     int           `json:"offences,omitempty"`
	FirstOffence string        `json:"first_offence,omitempty"`
	LastOffence  string        `json:"last_offence,omitempty"`
	LastProtocol string        `json:"last_protocol,omitempty"`
	LastPort     uint16        `json:"last_port,omitempty"`
	Packet       *packetAnswer `json:"packet,omitempty"`

	standing ruleset.Standing
	bans     []ban
	traps    traps
	known    book.Row
	clock    book.Clock
	zone     *time.Location
	retries  time.Duration // within which more than one packet to a trap must come
	scans    bool          // closed ports count

	scanWindow time.Duration // within which they must come; 0 if one is enough
	idle       string        // why the table is not in force, if it is not
	unroutable bool          // no route leads back: packets of it ban nobody
}

func (p *cli) explain(c *nftset.Conn, h *ruleset.Handle, q query) (*answer, error) {
	st, err := h.Lookup(q.from)
	if err != nil {
		return nil, err
	}
	a := &answer{
		Version: 1, Table: h.Table.String(), Address: q.from, Source: st.Source, Bans: []banJSON{}, standing: st, idle: idle(h),
		Tier: st.Step, TierExpiresSeconds: seconds(st.StepRemaining), zone: p.now().Location(),
	}
	if st.Suspect {
		if a.ProbedPorts, err = h.Probed(st.Source); err != nil {
			return nil, err
		}
	}
	if a.traps, err = readTraps(c, h); err != nil {
		return nil, err
	}
	a.TrapTCP, a.TrapUDP = portTexts(a.traps.tcp), portTexts(a.traps.udp)
	armed, err := armedIn(c, h)
	if err != nil {
		return nil, err
	}
	a.ArmedInSeconds = seconds(armed)
	if err := a.recall(p, h); err != nil {
		return nil, err
	}
	a.foresee(p, h)
	if st.Whitelisted != nil {
		a.WhitelistedBy = st.Whitelisted.String()
	}
	switch own, err := isOwn(q.from); {
	case err != nil:
		return nil, err
	case st.Whitelisted != nil:
		a.Verdict = whitelisted
	case len(a.bans) > 0:
		a.Verdict = banned
	case own:
		a.Verdict = ownAddress
	default:
		a.Verdict = notBanned
		back, err := route.Back(q.from, "")
		if err != nil {
			return nil, err
		}
		if a.unroutable = !back.Found; !a.unroutable {
			a.WouldBanSeconds = a.NextBanSeconds
		}
	}
	if q.port > 0 {
		a.Packet, err = p.follow(c, h, a, q)
	}
	return a, err
}

// recall fills in the bans, and what is remembered of the source's offences.
func (a *answer) recall(p *cli, h *ruleset.Handle) error {
	k, err := p.knowledge(h, a.Source)
	if err != nil {
		return err
	}
	a.Watched, a.clock = k.watched, k.clock
	if row, ok := k.Get(a.Source); ok && row.Offences > 0 {
		a.known, a.Offences, a.LastProtocol, a.LastPort = row, row.Offences, text.Protocol(row.Proto), row.Port
		a.FirstOffence, a.LastOffence = moment(k.clock, row.First), moment(k.clock, row.Last)
	}
	for _, e := range a.standing.Bans {
		for _, prefix := range e.Prefixes() {
			if prefix.Contains(a.Address) {
				b := k.explain(newBan(e, prefix, p.now()))
				a.bans, a.Bans = append(a.bans, b), append(a.Bans, b.view())
			}
		}
	}
	return nil
}

// foresee fills in what the next offence would lead to.
func (a *answer) foresee(p *cli, h *ruleset.Handle) {
	ladder := ladderOf(h)
	a.scans = h.Set(setIgnoreTCP) != nil
	if n := len(ladder.BanTime); n > 0 && (a.scans || a.traps.String() != "") {
		a.NextTier = min(a.Tier+1, n)
		a.NextBanSeconds = seconds(ladder.BanTime[a.NextTier-1])
	}
	if probed := h.Set("probed4"); probed != nil {
		a.scanWindow = probed.Timeout
	}
	if hits := h.Set("hits4"); hits != nil {
		a.retries = hits.Timeout
	}
	switch conf, err := config.Load(p.configFile); {
	case !a.scans:
	case h.Set("score4") == nil:
		a.ScanPorts = 1
	case err == nil && slices.Equal(conf.Spec.BanTime, ladder.BanTime):
		// The kernel does not tell this number, so that it is known only while
		// the configuration is that of the table.
		a.ScanPorts = conf.Spec.Scan.Ports
	}
}

// armedIn returns in what time the traps are armed; 0 if they are.
func armedIn(c *nftset.Conn, h *ruleset.Handle) (d time.Duration, err error) {
	set := h.Set(setStarting)
	if set == nil {
		return 0, nil
	}
	for el, err := range c.Elements(set) {
		if err != nil {
			return 0, err
		}
		d = max(d, el.Remaining)
	}
	return d, nil
}
