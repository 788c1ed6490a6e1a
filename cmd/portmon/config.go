package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
)

func configCommand(p *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "check a configuration file, or write the first one",
		Long: `The configuration is one file, ` + config.DefaultPath + `. Without it the
built-in default applies. To change something, write the file, edit it and check
it; then run portmon apply.`,
		Example: `  portmon config init my.toml
  portmon config check my.toml`,
		Args: unknownCommand,
		RunE: noCommand,
	}
	cmd.AddCommand(configCheckCommand(p), configInitCommand(p))
	return cmd
}

func configCheckCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "report the faults of a configuration file",
		Long: `Check reads a configuration file, ` + config.DefaultPath + ` if none is given,
and its whitelist files. It reports up to 20 faults, and what looks doubtful,
with the file and the line of the key. It changes nothing and needs no
privilege. The exit code is 2 if there is a fault.`,
		Example:           `  portmon config check`,
		ValidArgsFunction: completeConfig,
		Args:              p.takeFile,
		RunE: func(*cobra.Command, []string) error {
			conf, err := config.Load(p.configFile)
			if err != nil {
				return err
			}
			for _, w := range conf.Warnings {
				p.warn("%v", w)
			}
			p.checkPlaces(conf)
			p.checkSecrets(conf)
			if conf.Source == "" {
				p.note("there is no %s", config.DefaultPath)
			}
			p.print("%s: valid: %s\n", cmp.Or(conf.Source, "built-in default"), summary(&conf.Spec))
			return nil
		},
	}
}

// checkSecrets warns of files of a key or a token that do not exist. Those of a
// unit's credentials are there only while it runs.
func (p *cli) checkSecrets(conf *config.Config) {
	for _, f := range []struct{ key, file, lack string }{
		{"report.abuseipdb_key_file", conf.AbuseIPDBKeyFile, "nothing is reported"},
		{"watch.ntfy_token_file", conf.Watch.NtfyTokenFile, "nothing is sent to ntfy"},
	} {
		if f.file == "" || strings.HasPrefix(f.file, "/run/credentials/") {
			continue
		}
		if _, err := os.Stat(f.file); errors.Is(err, fs.ErrNotExist) { // a user may not look into all folders
			p.warn("%s: %v: without it, %s", f.key, err, f.lack)
		}
	}
}

var completeConfig = cobra.FixedCompletions([]cobra.Completion{"toml"}, cobra.ShellCompDirectiveFilterFileExt)

// takeFile sets the file that an argument names, in place of --config.
func (p *cli) takeFile(_ *cobra.Command, args []string) error {
	switch {
	case len(args) > 1:
		return fmt.Errorf("expected one file, got %d", len(args))
	case len(args) == 1 && p.configFile != "":
		return fmt.Errorf("%s and --config cannot be combined: both name the file", args[0])
	case len(args) == 1:
		p.configFile = args[0]
	}
	return nil
}

func configInitCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "write a configuration file with every key explained",
		Long: `Init writes the built-in default as a file in which every key is explained: to
` + config.DefaultPath + `, to FILE, or to standard output if FILE is "-". A file
that exists is not touched.`,
		Example: `  portmon config init
  portmon config init - > my.toml`,
		ValidArgsFunction: completeConfig,
		Args:              p.takeFile,
		RunE: func(*cobra.Command, []string) error {
			name := cmp.Or(p.configFile, config.DefaultPath)
			if name == "-" {
				p.print("%s", config.Reference)
				return nil
			}
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return err
			}
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return &hinted{fmt.Errorf("write %s: the file exists", name), "move it away, or name another file"}
			} else if err != nil {
				return err
			}
			_, err = f.Write(config.Reference)
			if err := errors.Join(err, f.Close()); err != nil {
				return errors.Join(err, os.Remove(name))
			}
			p.print("wrote %s\n", name)
			return nil
		},
	}
}
