package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func whyCommand(p *cli) *cobra.Command {
	var asJSON bool
	var to, port string
	q := query{proto: "tcp"}
	cmd := &cobra.Command{
		Use:   "why ADDR",
		Short: "explain what happens to packets from an address",
		Long: `Why reports whether an address is banned, since when, for how long and for what;
whether it is whitelisted, and by which entry; and what its next packet to a
trap port or to a closed port would do. It shows what is remembered of earlier
offences, the closed ports that count against it, and its country and network,
if [geo] names databases of them. It asks the kernel and changes nothing.

With --port it goes through the questions that the kernel would ask about a new
connection to that port, in the same order, and reports the verdict. The packet
comes in by the device that leads to ADDR, and is sent to the address by which
this host would answer, unless --iif and --to say otherwise. The verdict is not
known if it depends on a rule that is not portmon's and asks for something that
why does not know, such as a packet mark. It cannot see what other tables or
DNAT would change.`,
		Example: `  portmon why 203.0.113.7
  portmon why 203.0.113.7 --port 3389
  portmon why 2001:db8:5:6::7 --json | jq -r .verdict`,
		ValidArgsFunction: p.complete(slices.Concat(banRoles, allowRoles)...),
		Args: func(cmd *cobra.Command, args []string) (err error) {
			changed := cmd.Flags().Changed
			switch {
			case len(args) != 1:
				return fmt.Errorf("expected one address, got %d arguments", len(args))
			case q.proto != "tcp" && q.proto != "udp":
				return errors.New("--proto must be tcp or udp")
			case !changed("port") && (changed("proto") || changed("iif") || changed("to")):
				return errors.New("--proto, --iif and --to require --port")
			}
			if changed("port") {
				n, err := strconv.ParseUint(port, 10, 16)
				if err != nil || n == 0 {
					return fmt.Errorf("--port: %q is not a port (1 to 65535)", port)
				}
				q.port = uint16(n)
			}
			if q.from, err = parseAddr(args[0]); err == nil && to != "" {
				if q.to, err = parseAddr(to); err == nil && q.to.Is4() != q.from.Is4() {
					err = fmt.Errorf("--to %s is of the other family", q.to)
				}
			}
			return err
		},
		PreRunE: p.lookForState,
		RunE: func(*cobra.Command, []string) error {
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
				if a.NoEffect != "" && !a.spared && h.Idle() == "" {
					p.hint(runApply)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&port, "port", "", "explain a packet to this `PORT`")
	cmd.Flags().StringVar(&q.proto, "proto", q.proto, "with --port: `PROTOCOL`, tcp (a SYN) or udp")
	cmd.Flags().StringVar(&q.iif, "iif", "",
		"with --port: the `DEVICE` that it comes in by")
	cmd.Flags().StringVar(&to, "to", "",
		"with --port: the `ADDR` that it is sent to")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("proto",
		cobra.FixedCompletions([]cobra.Completion{"tcp", "udp"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// verdict is what happens to packets from an address.
type verdict string

const (
	banned      verdict = "banned"
	wouldBan    verdict = "would_be_banned" // if the table did not only observe
	whitelisted verdict = "whitelisted"     // bans have no effect
	allowed     verdict = "allowed"         // the same, for a time
	ownAddress  verdict = "own_address"     // never banned by the packet path
	notBanned   verdict = "not_banned"
)

// answer is what why reports. What is not known is left out.
type answer struct {
	Version int        `json:"version"`
	Table   string     `json:"table"`
	Mode    string     `json:"mode"`
	Address netip.Addr `json:"address"`
	// Source is the prefix that an offence of the address would ban.
	Source netip.Prefix `json:"source"`
	geo.Place
	Verdict       verdict `json:"verdict"`
	WhitelistedBy string  `json:"whitelisted_by,omitempty"`
	Allowed       *ban    `json:"allowed,omitempty"`
	Bans          []ban   `json:"bans"`
	// Fleet is the ban of the fleet, of which the reason says who saw the source.
	Fleet *ban `json:"fleet,omitempty"`
	// NoEffect is why the kernel lets packets pass, or may, in spite of a ban.
	NoEffect string `json:"no_effect,omitempty"`
	// Interfaces are those by which what comes in is never dropped.
	Interfaces []string `json:"whitelist_interfaces,omitempty"`
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

	last       string        // where and when the last offence was
	retries    int           // how many packets to traps are an offence
	retryTime  time.Duration // within which they must come; 0 if one is enough
	scanWindow time.Duration // within which closed ports must be asked for; 0 if one is enough
	spared     bool          // the packet comes in by one of Interfaces
	unroutable bool          // no route leads back: its packets lead to no ban
}

func (p *cli) explain(h *ruleset.Handle, q query) (a *answer, err error) {
	st, err := h.Lookup(q.from)
	if err != nil {
		return nil, err
	}
	a = &answer{
		Version: 1, Table: h.Table.String(), Mode: h.Mode(), Address: q.from, Source: st.Source, Verdict: notBanned, Bans: []ban{},
		Tier: st.Step, TierExpiresSeconds: seconds(st.StepRemaining), Interfaces: h.Interfaces(),
	}
	if st.Suspect {
		if a.ProbedPorts, err = h.Probed(st.Source); err != nil {
			return nil, err
		}
	}
	if a.trapReport, err = readTraps(h); err != nil {
		return nil, err
	}
	a.ScanPorts, a.scanWindow = h.ScanPorts()
	a.retries, a.retryTime = h.Retries()
	if ladder, _ := h.Ladder(); len(ladder) > 0 && (a.ScanPorts > 0 || a.trapReport.String() != "") {
		a.NextTier = min(a.Tier+1, len(ladder))
		a.NextBanSeconds = seconds(ladder[a.NextTier-1])
	}
	a.recall(p, h, st.Bans)
	places := p.places()
	a.Place = places.Lookup(q.from)
	places.Close()
	back, err := route.Back(q.from, "")
	if err != nil {
		return nil, err
	}
	a.unroutable = !back.Found
	if st.Allowed != nil {
		for _, prefix := range st.Allowed.Prefixes() {
			if prefix.Contains(q.from) {
				b := newBan(*st.Allowed, prefix, p.now())
				a.Allowed = &b
			}
		}
	}
	if st.Fleet != nil {
		b := newBan(*st.Fleet, ruleset.FleetSource(q.from), p.now())
		a.Fleet = &b
	}
	switch {
	case st.Whitelisted != nil:
		a.Verdict, a.WhitelistedBy = whitelisted, st.Whitelisted.String()
	case st.Allowed != nil:
		a.Verdict = allowed
	case len(a.Bans) > 0 || a.Fleet != nil:
		if a.Verdict = banned; h.Observe {
			a.Verdict = wouldBan
		}
		set := ruleset.RoleFleet.Set(q.from, 0)
		if len(a.Bans) > 0 {
			set = a.Bans[0].Set
		}
		a.NoEffect, err = noEffect(h, q.from, set)
	case back.Own:
		a.Verdict = ownAddress
	case back.Found:
		a.WouldBanSeconds = a.NextBanSeconds
	}
	if err == nil && q.port > 0 {
		a.Packet, err = p.follow(h, a, q)
	}
	return a, err
}

// recall fills in the bans, and what is remembered of the source's offences.
func (a *answer) recall(p *cli, h *ruleset.Handle, bans []ruleset.Entry) {
	k := p.knowledge(h, a.Source)
	a.Watched = k.watched
	if row, ok := k.Get(a.Source); ok {
		a.offencesJSON = offencesOf(&row, k.clock)
		if port := text.Port(row.Proto, row.Port); port != "" {
			a.last = " at " + port
		}
		a.last += " on " + k.clock.Time(row.Last).In(p.now().Location()).Format(clockLayout)
	}
	for _, e := range bans {
		for _, prefix := range e.Prefixes() {
			if prefix.Contains(a.Address) {
				a.Bans = append(a.Bans, k.explain(newBan(e, prefix, p.now())))
			}
		}
	}
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
		case (t.Dropped || t.WouldDrop) && (t.Because == ruleset.AskBanned || t.Because == ruleset.OtherRule):
		case t.OtherChain != "":
			return "a rule that is not portmon's, in chain " + text.Printable(t.OtherChain) + ", may let its packets pass", nil
		default:
			return "no rule asks set " + set + ": its packets pass", nil
		}
	}
	return "", nil
}
