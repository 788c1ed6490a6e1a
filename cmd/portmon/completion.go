package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func completionCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "write a completion script for a shell",
		Long: `Completion writes a script that completes commands and flags, and in a root
shell also banned addresses. Shells read it at their start from

  bash  /usr/share/bash-completion/completions/portmon
  zsh   /usr/share/zsh/site-functions/_portmon
  fish  /usr/share/fish/vendor_completions.d/portmon.fish`,
		Example: `  # for the bash that is running
  source <(portmon completion bash)`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(p.out, true)
			case "zsh":
				return root.GenZshCompletion(p.out)
			default:
				return root.GenFishCompletion(p.out, true)
			}
		},
	}
}

// Completion offers at most maxOffered addresses of the first maxSearched bans.
const (
	maxOffered  = 200
	maxSearched = 100_000
)

// completeBanned offers the addresses that are banned. Errors are ignored,
// because the tab key is no place to report them.
func (p *cli) completeBanned(
	_ *cobra.Command, args []string, start string,
) (found []cobra.Completion, what cobra.ShellCompDirective) {
	_ = p.withTable(func(h *ruleset.Handle) error {
		n := 0
		for e, err := range h.Entries(ruleset.RoleBan, ruleset.RoleSubnet, ruleset.RoleNet) {
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
