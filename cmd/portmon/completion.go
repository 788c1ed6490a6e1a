package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func completionCommand(p *cli) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "write a script that completes commands in a shell",
		Long: `Completion writes a script that makes the tab key complete commands and flags,
and for a root shell also the addresses that are banned. The shell reads it at
its start from

  bash  /usr/share/bash-completion/completions/portmon
  zsh   /usr/share/zsh/site-functions/_portmon
  fish  /usr/share/fish/vendor_completions.d/portmon.fish`,
		Example: `  # for the shell that is running: bash
  source <(portmon completion bash)`,
		ValidArgs: shells,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && slices.Contains(shells, args[0]) {
				return nil
			}
			return usage(cmd, "want the name of a shell: %s", enumerate(shells))
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

// What completion of addresses may take: so many are offered, and sets with more bans are not read.
const (
	maxOffered  = 200
	maxSearched = 100_000
)

// completeBanned offers the addresses that are banned. Whatever goes wrong, it is silent: nobody wants errors from the tab key.
func (p *cli) completeBanned(_ *cobra.Command, args []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []cobra.Completion
	_ = p.withTable(func(c *nftset.Conn, s *ruleset.State) error {
		if expected(s) > maxSearched {
			return nil
		}
		for e, err := range p.selectBans(c, s, nil) {
			if err != nil || len(found) == maxOffered {
				return err
			}
			text := shortPrefix(e.prefix)
			if strings.HasPrefix(text, start) && !slices.Contains(args, text) {
				found = append(found, text)
			}
		}
		return nil
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}
