package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/ruleset"
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
		RunE: func(cmd *cobra.Command, _ []string) error { return noCommand(cmd) },
	}
	cmd.AddCommand(configCheckCommand(p), configInitCommand(p))
	return cmd
}

func configCheckCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "tell all that is wrong with a configuration file",
		Long: `Check reads a configuration file, ` + config.DefaultPath + ` if none is given,
and its whitelist files. It tells all that is wrong, and what looks doubtful,
with file and line. It changes nothing and needs no privilege. The exit code is
2 if anything is wrong.`,
		Example: `  portmon config check`,
		Args:    func(cmd *cobra.Command, args []string) error { return p.takeFile(cmd, args) },
		RunE: func(*cobra.Command, []string) error {
			conf, err := p.loadConfig()
			if err != nil {
				return err
			}
			name := conf.Source
			if name == "" {
				name = "built-in default"
				p.note("there is no %s", config.DefaultPath)
			}
			plan := &ruleset.Plan{Table: ruleset.Compile(conf.Spec, ruleset.Features{}, nil)}
			p.print("%s: good: %s\n", name, summary(plan, conf))
			return nil
		},
	}
}

// takeFile takes the file to be the argument, which --config may say as well.
func (p *cli) takeFile(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) > 1:
		return usage(cmd, "want one file, here are %d", len(args))
	case len(args) == 1 && p.configFile != "":
		return usage(cmd, "%s and --config do not go together: both name the file", args[0])
	case len(args) == 1:
		p.configFile = args[0]
	}
	return nil
}

func configInitCommand(p *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "write a configuration file with every key explained",
		Long: `Init writes the built-in default as a file in which every key is explained: to
` + config.DefaultPath + `, to FILE, or to standard output if FILE is "-". A file
that is there is not touched without --force.`,
		Example: `  portmon config init
  portmon config init - > my.toml`,
		Args: func(cmd *cobra.Command, args []string) error { return p.takeFile(cmd, args) },
		RunE: func(*cobra.Command, []string) error {
			name := p.configFile
			if name == "" {
				name = config.DefaultPath
			}
			if name == "-" {
				p.print("%s", config.Reference)
				return nil
			}
			err := writeFile(name, config.Reference, force)
			switch {
			case errors.Is(err, fs.ErrExist):
				return &hinted{fmt.Errorf("write %s: it is there already", name), "to replace it, add --force"}
			case err != nil:
				return err
			}
			p.print("wrote %s\n", name)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	return cmd
}

// writeFile writes a file that everybody may read, all of it or none, and makes the folder for it. Unless it may replace a file,
// there being one is fs.ErrExist.
func writeFile(name string, data []byte, replace bool) (err error) {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after a rename there is nothing to remove
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if replace {
		return os.Rename(f.Name(), name)
	}
	return os.Link(f.Name(), name) // which, unlike a rename, replaces nothing
}
