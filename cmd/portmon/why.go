package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func whyCommand(p *cli) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why ADDR",
		Short: "tell what happens to packets from an address, and why",
		Long: `Why tells whether an address is banned, since when, for how long and by which
set; whether it is whitelisted, and by which entry; and if it is neither, what
would ban it. If the watcher knows of offences, it tells how many, the last
port, and how long the next ban will be. It asks the kernel, not the
configuration, and changes nothing.`,
		Example: `  portmon why 203.0.113.7
  portmon why 2001:db8:5:6::7 --json | jq -r .verdict`,
		ValidArgsFunction: p.completeBanned,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(cmd, "want one address, here are %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := parseAddr(args[0])
			if err != nil {
				if t, e := parseTarget(args[0]); e == nil {
					return &usageError{fmt.Errorf("%s is a prefix: want one address", t.text), "`portmon list " + t.text + "` tells which bans lie within"}
				}
				return usage(cmd, "%w", err)
			}
			return p.withTable(func(c *nftset.Conn, s *ruleset.State) error {
				a, err := p.explain(c, s, addr)
				switch {
				case err != nil:
					return fmt.Errorf("why %s: %w", addr, err)
				case asJSON:
					return p.json(a)
				}
				a.print(p)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	return cmd
}

// verdict is what happens to packets from an address.
type verdict string

const (
	banned      verdict = "banned"
	whitelisted verdict = "whitelisted" // bans are without effect
	ownAddress  verdict = "own_address" // never banned by a trap
	notBanned   verdict = "not_banned"
)

// answer is what why has to say.
type answer struct {
	Version int        `json:"version"`
	Table   string     `json:"table"`
	Address netip.Addr `json:"address"`
	// Source is the prefix that a packet from the address would ban.
	Source        netip.Prefix      `json:"source"`
	Verdict       verdict           `json:"verdict"`
	WhitelistedBy string            `json:"whitelisted_by,omitempty"`
	Bans          []json.RawMessage `json:"bans"`
	// WouldBanSeconds is how long a trap would ban the source; 0 if none would.
	WouldBanSeconds float64  `json:"would_ban_seconds,omitempty"`
	TrapTCP         []string `json:"trap_tcp"`
	TrapUDP         []string `json:"trap_udp"`
	// Watched tells that a watcher runs. If it does not, what is known of offences is what the last one has left.
	Watched      bool       `json:"watched"`
	Offences     int        `json:"offences,omitempty"`
	LastOffence  *time.Time `json:"last_offence,omitempty"`
	LastProtocol string     `json:"last_protocol,omitempty"`
	LastPort     uint16     `json:"last_port,omitempty"`
	// NextTier is the tier that the next offence leads to, once the bans are over.
	NextTier       int     `json:"next_tier,omitempty"`
	NextBanSeconds float64 `json:"next_ban_seconds,omitempty"`

	zone     *time.Location
	proto    uint8
	next     time.Duration // how long the ban in NextTier is
	bans     []entry
	traps    traps
	wouldBan time.Duration
	retries  time.Duration // within which more than one packet must come for a ban; 0 if one is enough
}

func (p *cli) explain(c *nftset.Conn, s *ruleset.State, addr netip.Addr) (*answer, error) {
	st, err := s.Lookup(c, addr)
	if err != nil {
		return nil, err
	}
	a := &answer{Version: 1, Table: s.Table.String(), Address: addr, Source: s.Source(addr), Bans: []json.RawMessage{}, zone: p.now().Location()}
	if a.traps, err = readTraps(c, s); err != nil {
		return nil, err
	}
	a.TrapTCP, a.TrapUDP = portTexts(a.traps.tcp), portTexts(a.traps.udp)
	k := p.knowledge(a.Source)
	a.recall(k, s, addr)
	for _, b := range st.Bans {
		entries(b, p.now(), func(e entry) {
			k.about(&e)
			if e.prefix.Contains(addr) {
				a.bans = append(a.bans, e)
				a.Bans = append(a.Bans, e.appendJSON(nil))
			}
		})
	}
	if st.Whitelisted != nil {
		a.WhitelistedBy = st.Whitelisted.String()
	}
	switch {
	case st.Whitelisted != nil:
		a.Verdict = whitelisted
	case len(a.bans) > 0:
		a.Verdict = banned
	case isOwn(addr):
		a.Verdict = ownAddress
	default:
		a.Verdict = notBanned
		if first := firstTier(s, addr); first != nil && a.traps.String() != "" {
			a.wouldBan, a.WouldBanSeconds = first.Timeout, first.Timeout.Seconds()
		}
		if hits := s.Set(setHits4); hits != nil {
			a.retries = hits.Timeout
		}
	}
	return a, nil
}

// recall fills in what is known of the source's offences.
func (a *answer) recall(k *knowledge, s *ruleset.State, addr netip.Addr) {
	a.Watched = k.watched
	rec, when, ok := k.offender(a.Source)
	if !ok {
		return
	}
	when = when.UTC().Truncate(time.Second)
	a.Offences, a.LastOffence, a.proto, a.LastProtocol, a.LastPort = rec.Offences, &when, rec.Proto, ledger.ProtocolName(rec.Proto), rec.Port
	if !k.watched {
		return
	}
	for tier := 1; tier <= rec.Offences+1; tier++ {
		set := s.Set(ruleset.BanSet(addr, tier))
		if set == nil {
			return
		}
		a.NextTier, a.next, a.NextBanSeconds = tier, set.Timeout, set.Timeout.Seconds()
	}
}

// firstTier returns the set that the packet path adds an address to, or nil.
func firstTier(s *ruleset.State, addr netip.Addr) *nftset.Set {
	if addr.Is6() {
		return s.Set(setBan6)
	}
	return s.Set(setBan4)
}

// isOwn reports whether the address is one of this host.
func isOwn(addr netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().WithZone("") == addr
	})
}
