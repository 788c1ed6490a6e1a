package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

// host is an empty root directory with a package database, in which shell scripts run as on a host of their own: with namespaces for
// the network, mounts and processes, the programs of this system in /bin and /sbin, and a systemctl that only writes down how it was
// called. Its /usr and /etc are empty, so that what a package leaves behind can be seen.
type host struct {
	root string
	t    *testing.T
}

const systemctl = `#!/bin/sh
echo "$@" >>/systemctl.log
test ! -e /systemctl.fails
`

func newHost(t *testing.T) host {
	t.Helper()
	lab.Program(t, "dpkg")
	h := host{t.TempDir(), t}
	for _, dir := range []string{
		"bin", "sbin", "lib", "lib64", "proc", "dev", "tmp", "etc/systemd/system", "usr/local/bin", "run/systemd/system", "var/lib/dpkg/info",
		"var/lib/dpkg/updates", "var/log",
	} {
		if err := os.MkdirAll(filepath.Join(h.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write("var/lib/dpkg/status", "", 0o644)
	h.write("var/lib/dpkg/available", "", 0o644)
	h.write("usr/local/bin/systemctl", systemctl, 0o755)
	for format, name := range map[string]string{"deb": "portmon.deb", "hub deb": "portmon-hub.deb"} {
		data, err := os.ReadFile(packageFile(t, format))
		if err != nil {
			t.Fatal(err)
		}
		h.write(name, string(data), 0o644)
	}
	return h
}

func (h host) write(name, text string, mode fs.FileMode) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.root, name), []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
}

// enter makes the mounts, and becomes the first process with the host's root for its own.
const enter = `set -e
root=$1 script=$2
mount --rbind /usr/bin "$root/bin"
mount --rbind /usr/sbin "$root/sbin"
mount --rbind /lib "$root/lib"
if [ -d /lib64 ]; then mount --rbind /lib64 "$root/lib64"; fi
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
`

// run runs a script on the host, and returns what it wrote. It ends at the first command that fails.
func (h host) run(script string) string {
	h.t.Helper()
	return h.unshare(enter+`exec chroot "$root" /bin/sh -euc "$script"`, script)
}

// runOutside runs a script whose root is still that of the test's system, the host's root being $root.
func (h host) runOutside(script string) string {
	h.t.Helper()
	return h.unshare(enter+`export root; exec /bin/sh -euc "$script"`, script)
}

func (h host) unshare(outer, script string) string {
	h.t.Helper()
	args := []string{"--mount", "--net", "--pid", "--fork", "--kill-child"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	cmd := exec.Command(lab.Program(h.t, "unshare"), append(args, "/bin/sh", "-c", outer, "sh", h.root, script)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v\n%s\nof\n%s", err, out, script)
	}
	return string(out)
}

// files lists what is on the host, but for the mounts and dpkg's own files.
func (h host) files() []string {
	h.t.Helper()
	var all []string
	err := filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(path, h.root)
		switch {
		case err != nil:
			return err
		case rel == "/var/lib/dpkg" || rel == "/var/log" || rel == "/systemctl.log":
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		all = append(all, rel)
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// called returns how systemctl was called since it was last asked.
func (h host) called() []string {
	h.t.Helper()
	log := filepath.Join(h.root, "systemctl.log")
	data, err := os.ReadFile(log)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.Remove(log); err != nil {
		h.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (h host) wantCalled(when string, want ...string) {
	h.t.Helper()
	if got := h.called(); !slices.Equal(got, want) {
		h.t.Errorf("%s: systemctl was called with %q: want %q", when, got, want)
	}
}

// enable makes the links of enabled units, as the real systemctl does.
func (h host) enable() {
	h.t.Helper()
	mustTool(h.t, "systemctl", "--root="+h.root, "--quiet", "enable", "portmon.service", "portmon-watch.service")
}

const (
	stop    = "stop portmon-watch.service portmon.service portmon-save.service"
	disable = "--quiet --no-reload disable portmon-watch.service portmon.service"
)

// From installation to purge, on a host where systemd runs.
func TestInstallUpgradeRemovePurge(t *testing.T) {
	h := newHost(t)
	before := h.files()

	h.run("dpkg --install /portmon.deb; portmon version; portmon config check")
	h.wantCalled("installation", "daemon-reload")
	for _, name := range h.files() {
		if strings.HasPrefix(name, "/etc/systemd/system/") {
			t.Errorf("installation made %s", name)
		}
	}

	h.enable()
	h.write("etc/portmon/whitelist.txt", "198.51.100.7\n", 0o644)
	h.run(`
		portmon apply
		portmon ban 203.0.113.7
		dpkg --install /portmon.deb
		portmon why 203.0.113.7 | grep 'is banned'
		mkdir -p /etc/systemd/system/nftables.service.d
		ln -s /usr/share/portmon/nftables.service.d/portmon.conf /etc/systemd/system/nftables.service.d/
		cp /systemctl.log /upgrade.log; rm /systemctl.log

		dpkg --remove portmon
		test -z "$(nft list tables)"
		test -s /var/lib/portmon/state.jsonl
		test -e /etc/portmon/portmon.toml
		test ! -e /etc/systemd/system/nftables.service.d
	`)
	h.wantCalled("removal", stop, disable, "daemon-reload")
	if err := os.Rename(filepath.Join(h.root, "upgrade.log"), filepath.Join(h.root, "systemctl.log")); err != nil {
		t.Fatal(err)
	}
	h.wantCalled("upgrade", "daemon-reload", "try-reload-or-restart portmon.service", "try-restart portmon-watch.service")

	// As systemd makes it for a dynamic user.
	h.run(`
		mkdir /var/lib/private
		mv /var/lib/portmon /var/lib/private/
		ln -s private/portmon /var/lib/portmon
		dpkg --purge portmon
		test -e /etc/portmon/whitelist.txt # which is the administrator's
		rm /etc/portmon/whitelist.txt
		rmdir /etc/portmon /var/lib/private
	`)
	h.wantCalled("purge")
	after := h.files()
	for _, name := range after {
		// Systemctl made these, and somebody else may have, too.
		if !slices.Contains(before, name) && filepath.Ext(name) != ".wants" {
			t.Errorf("purge left %s behind", name)
		}
	}
	for _, name := range before {
		if !slices.Contains(after, name) {
			t.Errorf("purge removed %s", name)
		}
	}
}

// Whatever systemctl says, no operation of dpkg fails.
func TestSystemctlFails(t *testing.T) {
	h := newHost(t)
	h.write("systemctl.fails", "", 0o644)
	h.run("dpkg --install /portmon.deb; dpkg --install /portmon.deb; dpkg --remove portmon; dpkg --purge portmon")
	if len(h.called()) == 0 {
		t.Error("systemctl was never called")
	}
}

// In a container or a chroot no systemd runs, and in a chroot the table is the host's.
func TestWithoutSystemd(t *testing.T) {
	h := newHost(t)
	if err := os.Remove(filepath.Join(h.root, "run/systemd/system")); err != nil {
		t.Fatal(err)
	}
	h.runOutside(`
		dpkg --root="$root" --install "$root/portmon.deb"
		chroot "$root" portmon apply
		dpkg --root="$root" --install "$root/portmon.deb"
		dpkg --root="$root" --remove portmon
		nft list table inet portmon >/dev/null
		dpkg --root="$root" --purge portmon
	`)
	h.wantCalled("all of it", disable)

	// A host with another init.
	h.run(`
		dpkg --install /portmon.deb
		portmon apply
		dpkg --purge portmon
		test -z "$(nft list tables)"
	`)
	h.wantCalled("all of it", disable)
}

// A drop-in that was changed is the administrator's.
func TestRemoveKeepsChangedDropIn(t *testing.T) {
	h := newHost(t)
	h.run(`
		dpkg --install /portmon.deb
		cd /etc/systemd/system
		mkdir nftables.service.d
		cp /usr/share/portmon/nftables.service.d/portmon.conf nftables.service.d/
		echo '# mine' >>nftables.service.d/portmon.conf
		dpkg --purge portmon
		test -e nftables.service.d/portmon.conf
	`)
}

// Rpm says the number of versions that will be there afterwards.
func TestScriptsOfRPM(t *testing.T) {
	h := newHost(t)
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		data, err := os.ReadFile(filepath.Join("scripts", script))
		if err != nil {
			t.Fatal(err)
		}
		h.write(script, string(data), 0o755)
	}
	h.run("dpkg --install /portmon.deb; mkdir -p /var/lib/portmon; rm /systemctl.log")
	for _, tt := range []struct {
		script string
		want   []string
	}{
		{"postinst 1", []string{"daemon-reload"}},
		{"postinst 2", []string{"daemon-reload", "try-reload-or-restart portmon.service", "try-restart portmon-watch.service"}},
		{"prerm 1", nil},
		{"postrm 1", nil},
		{"prerm 0", []string{stop, disable}},
		{"postrm 0", []string{"daemon-reload"}},
	} {
		h.run("/" + tt.script + "; test -d /var/lib/portmon")
		h.wantCalled(tt.script, tt.want...)
	}
}
