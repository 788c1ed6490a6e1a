package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// Completion offers at most maxOffered addresses of the first maxSearched bans.
const (
	maxOffered  = 200
	maxSearched = 100_000
)

// banRoles and allowRoles are the roles of the sets that hold bans and
// allowances.
var (
	banRoles   = []ruleset.Role{ruleset.RoleBan, ruleset.RoleSubnet, ruleset.RoleNet}
	allowRoles = []ruleset.Role{ruleset.RoleAllow, ruleset.RoleKnocked}
)

// complete returns what offers the addresses that sets of some roles hold.
// Errors are ignored, because the tab key is no place to report them.
func (p *cli) complete(roles ...ruleset.Role) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, start string) (found []cobra.Completion, what cobra.ShellCompDirective) {
		_ = p.withTable(func(h *ruleset.Handle) error {
			n := 0
			for e, err := range h.Entries(roles...) {
				if n++; err != nil || n > maxSearched || len(found) >= maxOffered {
					return err
				}
				for _, prefix := range e.Prefixes() {
					if text := text.Prefix(prefix); strings.HasPrefix(text, start) && !slices.Contains(args, text) {
						found = append(found, text)
					}
				}
			}
			return nil
		})
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}
