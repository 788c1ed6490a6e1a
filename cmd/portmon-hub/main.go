// Portmon-hub is where the hosts of a fleet tell what they have seen, and are
// told whom to ban. It has a NATS server in it, or uses one that exists. Run
// `portmon-hub help` for the commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := run(ctx, os.Stdout, os.Stderr, os.Args[1:])
	stop()
	exit(code)
}

// cli is one run of the program.
type cli struct {
	ui
	dir string // --dir
	url string // --nats
}

// run executes the command that the arguments name and returns the exit code.
func run(ctx context.Context, stdout, stderr io.Writer, args []string) int {
	p := &cli{ui: newUI(stdout, stderr)}
	root := p.root()
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !started {
		err = &usageError{err, cmd.CommandPath()}
	}
	return p.finish(err)
}

func (p *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:     "portmon-hub",
		Version: version(),
		Short:   "let the hosts of a fleet ban together",
		Long: `Portmon-hub takes what the hosts of a fleet have seen, decides what all of them
ban, and tells them. All it knows is in three streams of a NATS server, which is
in this program, or is one that you have.`,
		Example: `  # make keys and a configuration, start the hub, and have a host join
  portmon-hub init --url tls://hub.example.net:4222
  systemctl enable --now portmon-hub
  portmon-hub invite web-1`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{errors.New("missing command"), cmd.CommandPath()}
		},
	}
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.SetVersionTemplate("portmon-hub {{.Version}}\n")
	root.PersistentFlags().StringVar(&p.dir, "dir", "/var/lib/portmon-hub", "the `FOLDER` of the keys, the configuration and the store")
	root.PersistentFlags().StringVar(&p.url, "nats", "", "use the NATS server at `URL` in place of the one in this program")
	root.AddCommand(initCommand(p), runCommand(p), inviteCommand(p), hostsCommand(p), releaseCommand(p), revokeCommand(p), unbanCommand(p), usersCommand(p))
	return root
}

// Version overrides the version in the build information, as that of portmon.
var Version string

func version() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// usageError is a mistake on the command line.
type usageError struct {
	error
	command string
}

func (e *usageError) Unwrap() error { return e.error }
func (e *usageError) Hint() string  { return "see " + e.command + " --help" }

// hinted is an error with its next step.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }
func (e *hinted) Hint() string  { return e.hint }

func hint(next, format string, args ...any) error { return &hinted{fmt.Errorf(format, args...), next} }
