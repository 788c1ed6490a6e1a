package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func completionCommand(p *cli) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
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
		ValidArgs: shells,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && slices.Contains(shells, args[0]) {
				return nil
			}
			return usage(cmd, "expected the name of a shell: %s", text.Enumerate(shells, "or"))
		},
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

// Completion offers at most maxOffered addresses, and none if there are more
// than maxSearched bans to read.
const (
	maxOffered  = 200
	maxSearched = 100_000
)

// completeBanned offers the addresses that are banned. Errors are ignored,
// because the tab key is no place to report them.
func (p *cli) completeBanned(
	_ *cobra.Command, args []string, start string,
) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []cobra.Completion
	_ = p.withTable(func(h *ruleset.Handle) error {
		if n, err := countBans(h); err != nil || n > maxSearched {
			return err
		}
		for b, err := range p.bans(h, nil, nil) {
			if err != nil || len(found) == maxOffered {
				return err
			}
			if text := text.Prefix(b.prefix); strings.HasPrefix(text, start) && !slices.Contains(args, text) {
				found = append(found, text)
			}
		}
		return nil
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}
