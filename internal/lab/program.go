package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/netnstest"
)

// RequireVariable names, between spaces, the outside programs that must be
// there: tests fail without them rather than being skipped. "all" is every one
// but those that CI does not install, as it would take too long.
const RequireVariable = "PORTMON_REQUIRE"

// Outside is a program that tests run and that not every machine has.
type Outside struct {
	Name    string
	Package string // of Debian
	Tests   string // what is not tested without it
}

// Programs are all outside programs that tests run, by name.
var Programs = []Outside{
	{"ansible-playbook", "ansible-core", "how the Ansible role joins a fleet"},
	{"bash", "bash", "command lines in portmon's scripts and documents"},
	{"chromium", "chromium", "the page of a hub in a browser"},
	{"dpkg", "dpkg", "installation of the deb"},
	{"dpkg-deb", "dpkg", "contents of the deb"},
	{"editcap", "wireshark-common", "captures in the formats of Wireshark"},
	{"fail2ban-client", "fail2ban", "the fail2ban action and jails"},
	{"fail2ban-python", "fail2ban", "the fail2ban action"},
	{"fail2ban-server", "fail2ban", "the fail2ban action"},
	{"find", "findutils", "the packages"},
	{"groff", "groff-base", "how the manual pages are rendered"},
	{"gzip", "gzip", "the packages"},
	{"install", "coreutils", "the packages"},
	{"ip", "iproute2", "scripts that change links and routes"},
	{"jq", "jq", "scripts that read JSON"},
	{"ls", "coreutils", "scripts that list folders"},
	{"masscan", "masscan", "scans by masscan"},
	{"nft", "nftables", "what nft reads and writes, and edits by other programs"},
	{"nginx", "nginx-light", "restarts of nginx"},
	{"nix-instantiate", "nix-bin", "the Nix package and module"},
	{"nmap", "nmap", "scans by nmap"},
	{"ntfy", "", "notices to a real ntfy server (.ci/ntfy fetches one)"},
	{"rpm", "rpm", "contents of the rpm"},
	{"sed", "sed", "the packages"},
	{"sh", "dash", "shell scripts, and the packages"},
	{"shellcheck", "shellcheck", "shell scripts"},
	{"sleep", "coreutils", "scripts that wait"},
	{"ssh", "openssh-client", "logins by SSH after accidents"},
	{"ssh-keygen", "openssh-client", "restarts of sshd, and logins after accidents"},
	{"sshd", "openssh-server", "restarts of sshd, and logins after accidents"},
	{"stat", "coreutils", "scripts that ask for the modes of files"},
	{"sysctl", "procps", "scripts that change kernel settings"},
	{"systemctl", "systemd", "what the deb enables"},
	{"systemd-analyze", "systemd", "the units"},
	{"tar", "tar", "the packages"},
	{"tcpdump", "tcpdump", "captures by tcpdump"},
	{"tmux", "tmux", "portmon top"},
	{"true", "coreutils", "commands for notices"},
	{"unshare", "util-linux", "installation of the deb"},
}

// notInstalled are those.
var notInstalled = []string{"chromium"}

// systemFolders have the programs of administrators, which are not in
// everybody's PATH.
const systemFolders = "/usr/sbin:/sbin:/usr/local/sbin"

// FindSystemPrograms adds the folders of system programs to PATH, for tests
// whose scripts run programs by name.
func FindSystemPrograms() { os.Setenv("PATH", os.Getenv("PATH")+":"+systemFolders) }

// Find returns the path of an outside program: that of the variable
// PORTMON_NAME, or from PATH and from the folders of system programs.
func Find(name string) (string, error) {
	if path := os.Getenv("PORTMON_" + strings.ToUpper(name)); path != "" {
		return exec.LookPath(path)
	}
	path, err := exec.LookPath(name)
	for dir := range strings.SplitSeq(systemFolders, ":") {
		if err != nil {
			if system, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return system, nil
			}
		}
	}
	return path, err
}

// Program returns the path of an outside program, which must be one of
// Programs. Where there is none, the test is skipped, or fails if
// RequireVariable asks for the program.
func Program(t testing.TB, name string) string {
	t.Helper()
	i := slices.IndexFunc(Programs, func(p Outside) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("%s is not in lab.Programs", name)
	}
	path, err := Find(name)
	if err == nil {
		return path
	}
	required := strings.Fields(os.Getenv(RequireVariable))
	if slices.Contains(required, "all") && !slices.Contains(notInstalled, name) || slices.Contains(required, name) {
		t.Fatalf("no %s, which %s asks for: install %s", name, RequireVariable, Programs[i].Package)
	}
	t.Skipf("no %s: not tested: %s", name, Programs[i].Tests)
	return ""
}

// Run runs a command in the host's namespace, with stdin, and returns what it
// writes to stdout. What it writes to stderr is in the error if it fails.
func Run(h *netnstest.Host, stdin, path string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	var err error
	h.Do(func() {
		cmd := exec.Command(path, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
		err = cmd.Run()
	})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &stderr)
	}
	return stdout.String(), err
}

// TryNFT runs nft on a host, with a script on its standard input unless there
// are arguments, and returns what it prints.
func TryNFT(t testing.TB, h *netnstest.Host, script string, args ...string) (string, error) {
	t.Helper()
	if len(args) == 0 {
		args = []string{"-f", "-"}
	}
	return Run(h, script, Program(t, "nft"), args...)
}

// NFT is TryNFT for what must succeed.
func NFT(t testing.TB, h *netnstest.Host, script string, args ...string) string {
	t.Helper()
	out, err := TryNFT(t, h, script, args...)
	if err != nil {
		t.Fatalf("nft %.1000s%s: %v", script, strings.Join(args, " "), err)
	}
	return out
}
