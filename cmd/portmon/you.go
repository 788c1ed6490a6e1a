package main

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// yourReport is what status says of the address that the user comes from.
type yourReport struct {
	Address netip.Addr `json:"address"`
	// Standing is "whitelisted", "allowed", "banned", or "exposed": an offence
	// would ban it.
	Standing string `json:"standing"`
	// By is the entry of the whitelist, the allowance or the ban.
	By string `json:"by,omitempty"`
	// ExpiresSeconds is when the allowance or the ban ends, 0 for never.
	ExpiresSeconds seconds `json:"expires_seconds,omitempty"`

	would bool // the table observes: a ban is none
}

// you reports on the SSH peer; nil if there is none. Packets that come in by one
// of these interfaces are never dropped.
func (p *cli) you(h *ruleset.Handle, interfaces []string) (*yourReport, error) {
	peer, ok := p.sshPeer()
	if !ok || !h.Exists {
		return nil, nil
	}
	st, err := h.Lookup(peer)
	if err != nil {
		return nil, err
	}
	you := &yourReport{Address: peer, Standing: "exposed", would: h.Observe}
	hold := func(standing string, e *ruleset.Entry) {
		you.Standing, you.By, you.ExpiresSeconds = standing, e.Interval.String(), seconds(e.Remaining)
	}
	switch device := comesBy(interfaces, peer); {
	case st.Whitelisted != nil:
		you.Standing, you.By = "whitelisted", st.Whitelisted.String()
	case device != "":
		you.Standing, you.By = "whitelisted", device
	case st.Allowed != nil:
		hold("allowed", st.Allowed)
	case st.Banned():
		hold("banned", &st.Bans[0])
	}
	return you, nil
}

// print writes whether the user is safe, and how to be.
func (y *yourReport) print(u *ui) {
	left := forever
	if y.ExpiresSeconds > 0 {
		left = text.ShortDuration(time.Duration(y.ExpiresSeconds)) + " left"
	}
	would := ""
	if y.would {
		would = "would be "
	}
	says := map[string]string{
		"whitelisted": "whitelisted by " + text.Printable(y.By),
		"allowed":     "allowed by " + y.By + ", " + left,
		"banned":      paint(u.outColour, would+"banned", red) + " by " + y.By + ", " + left,
		"exposed":     "neither whitelisted nor allowed: an offence would lock you out",
	}[y.Standing]
	u.print("you: %s: %s\n", y.Address, says)
	if y.Standing == "banned" || y.Standing == "exposed" {
		u.hint("`portmon allow %s`", y.Address)
	}
}
