package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func whyCommand(p *cli) *cobra.Command {
	var asJSON bool
	var to string
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
connection to that port, in the same order, and reports the verdict. That is not
known if it depends on a rule that is not portmon's and asks for something that
why does not know, such as a packet mark. It cannot see what other tables or
DNAT would change.`,
		Example: `  portmon why 203.0.113.7
  portmon why 203.0.113.7 --port 3389
  portmon why 2001:db8:5:6::7 --json | jq -r .verdict`,
		ValidArgsFunction: p.completeBanned,
		Args: func(cmd *cobra.Command, args []string) error {
			changed := cmd.Flags().Changed
			switch {
			case len(args) != 1:
				return usage(cmd, "expected one address, got %d arguments", len(args))
			case q.port == 0 && changed("port"):
				return usage(cmd, "--port: \"0\" is not a port (1 to 65535)")
			case q.proto != "tcp" && q.proto != "udp":
				return usage(cmd, "--proto must be tcp or udp")
			case q.port == 0 && (changed("proto") || changed("iif") || changed("to")):
				return usage(cmd, "--proto, --iif and --to require --port")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.from, err = parseAddr(args[0]); err != nil {
				if t, e := parseTarget(args[0]); e == nil {
					return &usageError{
						fmt.Errorf("%s is not a single address", t[0].text),
						"`portmon list " + t[0].text + "` lists the bans in it",
					}
				}
				return usage(cmd, "%w", err)
			}
			if to != "" {
				if q.to, err = parseAddr(to); err != nil {
					return usage(cmd, "--to: %w", err)
				} else if q.to.Is4() != q.from.Is4() {
					return usage(cmd, "--to %s is of the other family", q.to)
				}
			}
			return p.withTable(func(h *ruleset.Handle) error {
				p.warnIdle(h)
				a, err := p.explain(h, q)
				switch {
				case err != nil:
					return fmt.Errorf("why %s: %w", q.from, err)
				case asJSON:
					return p.json(a)
				}
				a.print(p)
				if a.NoEffect != "" && h.Idle() == "" {
					p.hint("run `portmon apply`")
				}
				return nil
			})
		},
	}
	cmd.Flags().Uint16Var(&q.port, "port", 0, "explain a packet to this `PORT`")
	cmd.Flags().StringVar(&q.proto, "proto", q.proto, "with --port: `PROTOCOL`, tcp (a SYN) or udp")
	cmd.Flags().StringVar(&q.iif, "iif", "",
		"with --port: it comes in by this `DEVICE` (default: by the one that leads to ADDR)")
	cmd.Flags().StringVar(&to, "to", "",
		"with --port: it is sent to this `ADDR` (default: by which this host would answer)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	values := map[string][]cobra.Completion{"port": nil, "proto": {"tcp", "udp"}, "iif": nil, "to": nil}
	for name, values := range values {
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
	// NoEffect is why the kernel lets packets pass, or may, in spite of a ban.
	NoEffect string `json:"no_effect,omitempty"`
	// Tier is the step that the source was banned by last.
	Tier               int     `json:"tier,omitempty"`
	TierExpiresSeconds seconds `json:"tier_expires_seconds,omitempty"`
	// ProbedPorts are the closed ports that count against the source; with
	// ScanPorts of them it has offended.
	ProbedPorts []uint16 `json:"probed_ports,omitempty"`
	ScanPorts   int      `json:"scan_ports,omitempty"`
	trapReport
	// NextTier is the step that the next offence leads to, and NextBanSeconds
	// how long that bans. WouldBanSeconds is the same if one is possible now.
	NextTier        int     `json:"next_tier,omitempty"`
	NextBanSeconds  seconds `json:"next_ban_seconds,omitempty"`
	WouldBanSeconds seconds `json:"would_ban_seconds,omitempty"`
	// Watched reports that a watcher runs. Without one, offences are those that
	// the last one noted, or commands.
	Watched bool `json:"watched"`
	offencesJSON
	Packet *packetAnswer `json:"packet,omitempty"`

	bans       []ban
	last       time.Time     // the last offence, in local time
	retries    time.Duration // within which more than one packet to a trap must come
	scanWindow time.Duration // within which closed ports must be asked for; 0 if one is enough
	unroutable bool          // no route leads back: its packets lead to no ban
}

func (p *cli) explain(h *ruleset.Handle, q query) (a *answer, err error) {
	st, err := h.Lookup(q.from)
	if err != nil {
		return nil, err
	}
	a = &answer{
		Version: 1, Table: h.Table.String(), Address: q.from, Source: st.Source, Verdict: notBanned, Bans: []banJSON{},
		Tier: st.Step, TierExpiresSeconds: seconds(st.StepRemaining), retries: h.RetryWindow(),
	}
	if st.Suspect {
		if a.ProbedPorts, err = h.Probed(st.Source); err != nil {
			return nil, err
		}
	}
	if a.trapReport, err = readTraps(h); err != nil {
		return nil, err
	}
	k, err := p.knowledge(h, a.Source)
	if err != nil {
		return nil, err
	}
	a.recall(p, k, st.Bans)
	a.ScanPorts, a.scanWindow = h.ScanPorts()
	if ladder, _ := h.Ladder(); len(ladder) > 0 && (a.ScanPorts > 0 || a.trapReport.String() != "") {
		a.NextTier = min(a.Tier+1, len(ladder))
		a.NextBanSeconds = seconds(ladder[a.NextTier-1])
	}
	own, ownErr := route.IsLocal(q.from)
	back, backErr := route.Back(q.from, "")
	if err := errors.Join(ownErr, backErr); err != nil {
		return nil, err
	}
	switch {
	case st.Whitelisted != nil:
		a.Verdict, a.WhitelistedBy = whitelisted, st.Whitelisted.String()
	case len(a.bans) > 0:
		a.Verdict = banned
		if a.NoEffect, err = noEffect(h, q.from, a.bans[0].set); err != nil {
			return nil, err
		}
	case own:
		a.Verdict = ownAddress
	case back.Found:
		a.WouldBanSeconds = a.NextBanSeconds
	}
	a.unroutable = !back.Found
	if q.port > 0 {
		a.Packet, err = p.follow(h, a, q)
	}
	return a, err
}

// noEffect returns why packets from a banned address pass, or may, all the
// same; "" if all that open a connection, and pings, are dropped.
func noEffect(h *ruleset.Handle, from netip.Addr, set string) (string, error) {
	if h.Idle() != "" {
		return "the table is not in force", nil
	}
	protocols := []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP}
	if from.Is6() {
		protocols[2] = unix.IPPROTO_ICMPV6
	}
	for _, proto := range protocols {
		t, err := h.Trace(ruleset.Packet{From: from, Proto: proto, ToSelf: true, RouteBack: true})
		switch {
		case err != nil:
			return "", err
		case t.Dropped && (t.Because == ruleset.AskBanned || t.Because == ruleset.OtherRule):
		case t.OtherChain != "":
			return "a rule that is not portmon's, in chain " + text.Printable(t.OtherChain) + ", may let its packets pass", nil
		default:
			return "no rule asks set " + set + ": its packets pass", nil
		}
	}
	return "", nil
}

// recall fills in the bans, and what is remembered of the source's offences.
func (a *answer) recall(p *cli, k *knowledge, bans []ruleset.Entry) {
	a.Watched = k.watched
	if row, ok := k.Get(a.Source); ok {
		a.offencesJSON = offencesOf(&row, k.clock)
		a.last = k.clock.Time(row.Last).In(p.now().Location())
	}
	for _, e := range bans {
		for _, prefix := range e.Prefixes() {
			if prefix.Contains(a.Address) {
				b := k.explain(newBan(e, prefix, p.now()))
				a.bans, a.Bans = append(a.bans, b), append(a.Bans, b.view())
			}
		}
	}
}
