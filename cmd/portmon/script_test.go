package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/portmon/portmon/internal/geo/geotest"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// TestScripts runs portmon as a user types it, each script on a host of its own
// which the internet can reach.
func TestScripts(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		Setup:              setUpScript,
		Cmds:               scriptCommands,
		RequireUniqueNames: true,
	})
}

// site is what a script runs on: a lab, whose host has 192.0.2.2 and
// 2001:db8::2, and a watcher in it.
type site struct {
	*lab.Lab
	watcher *watcherProcess // of a script
}

func newSite(t testing.TB) *site { return &site{Lab: lab.New(t)} }

// addElement adds to a set of the table as other programs do.
func (s *site) addElement(t testing.TB, set, element string) {
	t.Helper()
	lab.NFT(t, s.Host, "", "add", "element", "inet", tableName, set, "{ "+element+" }")
}

type (
	siteKey struct{}
	testKey struct{}
)

func setUpScript(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("testscript does not give a testing.TB")
	}
	env.Values[siteKey{}] = newSite(t)
	env.Values[testKey{}] = t
	etc, lib, bin := filepath.Join(env.WorkDir, "etc"), filepath.Join(env.WorkDir, "lib"), filepath.Join(env.WorkDir, ".bin")
	env.Setenv("ETC", etc)
	env.Setenv("VARLIB", lib)
	env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
	env.Setenv(homeVariable, os.Getenv(homeVariable))
	env.Setenv(raceVariable, os.Getenv(raceVariable))
	env.Setenv("TZ", "UTC")
	env.Setenv("SSH_CONNECTION", "") // which tests may be run through
	for _, dir := range []string{etc, lib, bin} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	for name := range programs {
		err = errors.Join(err, os.Symlink(self, filepath.Join(bin, name)))
	}
	return err
}

// scriptCommands are what scripts can do that testscript cannot:
//
//	portmon ARGS           run portmon on the host, with $WORK/etc for /etc and $WORK/lib for /var/lib; it must exit with 0
//	exits CODE ARGS        the same, but it must exit with CODE
//	cannot CODE ARGS       the same, without any capability
//	host PROGRAM ARGS      run another program on the host
//	pipe COMMANDS          run a shell command on the host, in which portmon is one too
//	probe SRC PORT ANSWER  send a SYN from any address to the host; ANSWER is SYN+ACK, RST or none
//	connect SRC PORT       connect by TCP from an address, which the internet gets, until the script ends
//	watch ARGS             run portmon watch in the background, and go on when it is ready
//	unwatch SIGNAL         send a signal (TERM, KILL) to it, and go on when it has ended; its log is then in watch.log
//	hangup                 send it SIGHUP, and go on when it has read its configuration again
//	terminal COMMAND       run a shell command on the host in a terminal; see onTerminal
//	reboot                 go on with another host, which has the same files
//	elsewhere [CODE] ARGS  run portmon on another host that has the same files
//	await COMMAND          run a shell command as pipe does, again and again until it succeeds
//	listen NETWORK ADDR    let a program on the host listen, until the script ends
//	arm                    arm the traps of a table that was just made
//	json FILE PATH VALUE   check a value in a JSON document: .bans.0.prefix, where VALUE is JSON; FILE may be stdout
//	places FILE PREFIX COUNTRY ASN NETWORK  write a database of places
//	fields FILE PATH NAMES check that an object has these fields and no others
var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"portmon": func(ts *testscript.TestScript, neg bool, args []string) {
		runOnHost(ts, neg, 0, append([]string{"with-etc", "portmon"}, args...)...)
	},
	"exits": func(ts *testscript.TestScript, neg bool, args []string) {
		runOnHost(ts, neg, code(ts, args), append([]string{"with-etc", "portmon"}, args[1:]...)...)
	},
	"cannot": func(ts *testscript.TestScript, neg bool, args []string) {
		runOnHost(ts, neg, code(ts, args), append([]string{"with-etc", "unprivileged", "portmon"}, args[1:]...)...)
	},
	"host": func(ts *testscript.TestScript, neg bool, args []string) { runOnHost(ts, neg, 0, args...) },
	"pipe": func(ts *testscript.TestScript, neg bool, args []string) {
		runOnHost(ts, neg, 0, "with-etc", "bash", "-e", "-o", "pipefail", "-c", strings.Join(args, " "))
	},
	"watch":     scriptWatch,
	"unwatch":   scriptUnwatch,
	"hangup":    scriptHangup,
	"await":     scriptAwait,
	"terminal":  scriptTerminal,
	"elsewhere": scriptElsewhere,
	"reboot":    scriptReboot,
	"probe":     scriptProbe,
	"listen":    scriptListen,
	"connect":   scriptConnect,
	"arm":       scriptArm,
	"json":      scriptJSON,
	"fields":    scriptFields,
	"places": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 5 {
			ts.Fatalf("usage: places FILE PREFIX COUNTRY ASN NETWORK")
		}
		t := ts.Value(testKey{}).(testing.TB)
		ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o755))
		geotest.Replace(t, ts.MkAbs(args[0]), geotest.Build(t, mmdbwriter.Options{}, geotest.Records{
			args[1]: geotest.Place(args[2], args[3], args[4]),
		}))
	},
}

func code(ts *testscript.TestScript, args []string) int {
	if len(args) == 0 {
		ts.Fatalf("want an exit code")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	return n
}

// runOnHost runs a program in the host's namespace and checks how it exits.
func runOnHost(ts *testscript.TestScript, neg bool, want int, args ...string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: a program, and no !: say which exit code is expected")
	}
	needPrograms(ts.Value(testKey{}).(testing.TB), args...)
	var err error
	ts.Value(siteKey{}).(*site).Host.Do(func() { err = ts.Exec(args[0], args[1:]...) })
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args, " "), got, want)
	}
}

// needPrograms passes over the rest of a test if a command line names an
// outside program that is not there.
func needPrograms(t testing.TB, args ...string) {
	t.Helper()
	words := word.FindAllString(strings.Join(args, " "), -1)
	for _, p := range lab.Programs {
		if slices.Contains(words, p.Name) {
			lab.Program(t, p.Name)
		}
	}
}

var word = regexp.MustCompile(`[\w-]+`)

// scriptArm takes out what keeps the traps of a new table from being armed.
func scriptArm(ts *testscript.TestScript, neg bool, _ []string) {
	conn := banlab.Dial(ts.Value(testKey{}).(testing.TB), ts.Value(siteKey{}).(*site).Host)
	h, err := ruleset.Open(conn, tableName)
	ts.Check(err)
	var tx nftset.Tx
	tx.FlushSet(h.Set("starting"))
	ts.Check(conn.Commit(&tx))
}

func scriptProbe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: probe SRC PORT ANSWER")
	}
	src, err := netip.ParseAddr(args[0])
	ts.Check(err)
	port, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	if got := ts.Value(siteKey{}).(*site).Probe(src, uint16(port)).String(); got != args[2] {
		ts.Fatalf("SYN from %s to port %d: answer is %s, want %s", src, port, got, args[2])
	}
}

func scriptConnect(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: connect SRC PORT")
	}
	s := ts.Value(siteKey{}).(*site)
	src, err := netip.ParseAddr(args[0])
	ts.Check(err)
	port, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	s.Internet.AddAddr(s.Link.A.Dev, netip.PrefixFrom(src, src.BitLen()).String())
	_, err = s.Internet.Dial("tcp", src, netip.AddrPortFrom(s.Link.B.IPv4, uint16(port)), lab.LongPatience)
	ts.Check(err)
}

func scriptListen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: listen NETWORK ADDR")
	}
	ts.Value(siteKey{}).(*site).Host.Listen(args[0], args[1])
}

// find returns what stands in a JSON document at a path of names and numbers,
// each after a dot.
func find(ts *testscript.TestScript, file, path string) any {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &v))
	for step := range strings.SplitSeq(strings.Trim(path, "."), ".") {
		switch at := v.(type) {
		case map[string]any:
			if _, ok := at[step]; step != "" && !ok {
				ts.Fatalf("%s: there is no %s in %v", path, step, at)
			}
			if step != "" {
				v = at[step]
			}
		case []any:
			i, err := strconv.Atoi(step)
			if step != "" {
				if err != nil || i >= len(at) {
					ts.Fatalf("%s: there is no %s in a list of %d", path, step, len(at))
				}
				v = at[i]
			}
		default:
			ts.Fatalf("%s: there is nothing in %v", path, v)
		}
	}
	return v
}

func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: json FILE PATH VALUE")
	}
	var want any
	if err := json.Unmarshal([]byte(args[2]), &want); err != nil {
		ts.Fatalf("%s is not JSON: %v", args[2], err)
	}
	if got := find(ts, args[0], args[1]); reflect.DeepEqual(got, want) == neg {
		ts.Fatalf("%s: got %v, want %v", args[1], got, want)
	}
}

func scriptFields(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fields FILE PATH NAMES")
	}
	object, ok := find(ts, args[0], args[1]).(map[string]any)
	if !ok {
		ts.Fatalf("%s is no object", args[1])
	}
	got, want := map[string]bool{}, map[string]bool{}
	for name := range object {
		got[name] = true
	}
	for _, name := range args[2:] {
		want[name] = true
	}
	if !reflect.DeepEqual(got, want) {
		ts.Fatalf("%s: fields are %v, want %v", args[1], fmt.Sprint(got), fmt.Sprint(want))
	}
}
