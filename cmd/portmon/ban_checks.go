package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// mayBan returns an error if a prefix must not be banned.
func (p *cli) mayBan(c *nftset.Conn, s *ruleset.State, prefix netip.Prefix, force bool) error {
	st, err := s.Lookup(c, prefix.Addr())
	if err != nil {
		return err
	}
	if iv := nftset.FromPrefix(prefix); st.Whitelisted != nil && st.Whitelisted.Covers(iv) {
		return whitelistHint(&ruleset.WhitelistedError{Prefix: prefix, Entry: *st.Whitelisted})
	}
	peer, ok := p.sshPeer()
	if !ok || force || !prefix.Contains(peer) {
		return nil
	}
	switch st, err := s.Lookup(c, peer); {
	case err != nil:
		return err
	case st.Whitelisted != nil:
		return nil
	}
	return &hinted{
		fmt.Errorf("you are connected by SSH from %s, and would be locked out", peer),
		"to do it all the same, add --force",
	}
}

// whitelistHint adds a next step, where the administrator can take one: loopback and link-local are always whitelisted.
func whitelistHint(err *ruleset.WhitelistedError) error {
	if a := err.Entry.From.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() {
		return err
	}
	return &hinted{err, "take " + err.Entry.String() + " out of the whitelist, then run `portmon apply`"}
}

// maxReason is the length of the longest comment that nft reads, in bytes.
const maxReason = 128

// checkReason refuses what nft could not read back: its comments stand in quotes, and there is no escaping.
func checkReason(s string, offence bool) error {
	longest := maxReason
	if offence {
		longest -= len(ruleset.OffenceMark)
	}
	switch {
	case len(s) > longest:
		return fmt.Errorf("--reason is %d bytes long: want at most %d", len(s), longest)
	case strings.ContainsFunc(s, func(r rune) bool { return r == '"' || !unicode.IsPrint(r) }) || !utf8.ValidString(s):
		return fmt.Errorf("--reason %s: want text on one line, without double quotes", strconv.Quote(s))
	}
	return nil
}
