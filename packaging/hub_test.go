package packaging

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHubUnit checks that systemd understands the unit of the hub, and that it
// may do no more than those of hosts.
func TestHubUnit(t *testing.T) {
	text := strings.ReplaceAll(strings.Join(directives(t, "fleet/portmon-hub.service"), "\n"), "/usr/bin/portmon-hub", "/bin/true")
	path := filepath.Join(t.TempDir(), "portmon-hub.service")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(path+".d", os.DirFS("fleet/portmon-hub.service.d")); err != nil {
		t.Fatal(err)
	}
	if out, err := tool(t, "systemd-analyze", "verify", "--man=no", path); err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := tool(t, "systemd-analyze", "security", "--offline=true", "--threshold=12", path); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// hubFiles are the files of the repository that packages of the hub must hold,
// by their path in a deb or rpm.
var hubFiles = map[string]string{
	"/usr/lib/systemd/system/portmon-hub.service":            "fleet/portmon-hub.service",
	"/usr/share/man/man8/portmon-hub.8.gz":                   "fleet/man/portmon-hub.8",
	"/usr/share/portmon-hub/portmon-hub.service.d/keys.conf": "fleet/portmon-hub.service.d/keys.conf",
	"/usr/share/doc/portmon-hub/fleet.md":                    "../docs/fleet.md",
	"/usr/share/doc/portmon-hub/copyright":                   "copyright",
	"/usr/share/doc/portmon-hub/changelog.gz":                "../CHANGELOG.md",
}

// checkFile fails the test unless a file of a package is one of the repository.
func checkFile(t *testing.T, files map[string]file, path, source string) {
	t.Helper()
	want, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := files[path]
	if ok && filepath.Ext(path) == ".gz" {
		got.data = unzipped(t, got.data)
	}
	if !bytes.Equal(got.data, want) {
		t.Errorf("%s is not %s", path, source)
	}
}

func TestHubDebContents(t *testing.T) {
	deb := packageFile(t, "hub deb")
	files := filesOfDeb(t, deb)
	for path, source := range hubFiles {
		checkFile(t, files, path, source)
	}
	checkProgram(t, files["/usr/bin/portmon-hub"], "portmon-hub", "--version")
	for _, path := range []string{
		"/usr/share/bash-completion/completions/portmon-hub", "/usr/share/zsh/vendor-completions/_portmon-hub",
		"/usr/share/fish/vendor_completions.d/portmon-hub.fish",
	} {
		if !bytes.Contains(files[path].data, []byte("portmon-hub")) {
			t.Errorf("no %s", path)
		}
	}
	if text := unzipped(t, files["/usr/share/doc/portmon-hub/LICENSES-OTHERS.txt.gz"].data); !bytes.Contains(text, []byte("==== github.com/nats-io/nats-server/v2 ")) ||
		bytes.Contains(text, []byte("==== github.com/portmon")) {
		t.Errorf("the licences of others are not there: %.400s", text)
	}
	// Both can be installed on one host.
	for path := range filesOfDeb(t, packageFile(t, "deb")) {
		if _, both := files[path]; both {
			t.Errorf("%s is in both packages", path)
		}
	}
	for field, want := range map[string]string{"Package": "portmon-hub", "Version": "1.2.3-1", "Depends": "", "Pre-Depends": ""} {
		if got := strings.TrimSpace(mustTool(t, "dpkg-deb", "--field", deb, field)); got != want {
			t.Errorf("%s is %q: want %q", field, got, want)
		}
	}
}

func TestHubRPMContents(t *testing.T) {
	rpm := packageFile(t, "hub rpm")
	query := func(args ...string) string {
		return strings.TrimSpace(mustTool(t, "rpm", append([]string{"--query", "--package", "--nosignature", rpm}, args...)...))
	}
	list := strings.Fields(query("--list"))
	for _, path := range append(slices.Collect(maps.Keys(hubFiles)), "/usr/bin/portmon-hub", "/usr/share/zsh/site-functions/_portmon-hub") {
		if !slices.Contains(list, path) {
			t.Errorf("no %s", path)
		}
	}
	for tag, script := range map[string]string{"POSTIN": "postinst", "PREUN": "prerm", "POSTUN": "postrm"} {
		want, err := os.ReadFile(filepath.Join("fleet/scripts", script))
		if err != nil {
			t.Fatal(err)
		}
		if got := query("--queryformat", "%{"+tag+"}"); got != strings.TrimSpace(string(want)) {
			t.Errorf("%s is not %s: %s", tag, script, got)
		}
	}
}

func TestHubAPKContents(t *testing.T) {
	data, err := os.ReadFile(packageFile(t, "hub apk"))
	if err != nil {
		t.Fatal(err)
	}
	files := readTar(t, bytes.NewReader(unzipped(t, data)), "")
	checkProgram(t, files["/usr/bin/portmon-hub"], "portmon-hub", "--version")
	for path, source := range map[string]string{
		"/etc/init.d/portmon-hub": "fleet/openrc/portmon-hub", "/.pre-install": "fleet/scripts/apk-pre-install",
		"/.pre-deinstall": "fleet/scripts/apk-deinstall", "/.post-upgrade": "fleet/scripts/apk-post-upgrade",
	} {
		checkFile(t, files, path, source)
		if mode := files[path].mode & 0o777; mode != 0o755 {
			t.Errorf("%s has the mode %o", path, mode)
		}
	}
	for path := range files {
		if strings.Contains(path, "systemd") {
			t.Errorf("it has %s", path)
		}
	}
}

func TestHubTarContents(t *testing.T) {
	path := packageFile(t, "hub tar")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := readTar(t, bytes.NewReader(unzipped(t, data)), strings.TrimSuffix(filepath.Base(path), ".tar.gz"))
	checkProgram(t, files["/portmon-hub"], "portmon-hub", "--version")
	for path, source := range map[string]string{
		"/LICENSE": "../LICENSE", "/CHANGELOG.md": "../CHANGELOG.md", "/fleet.md": "../docs/fleet.md",
		"/systemd/portmon-hub.service": "fleet/portmon-hub.service", "/man/portmon-hub.8": "fleet/man/portmon-hub.8",
	} {
		checkFile(t, files, path, source)
	}
}

// From installation to purge: an upgrade restarts a hub that runs, a removal
// keeps the fleet, and a purge forgets it.
func TestHubInstallUpgradeRemovePurge(t *testing.T) {
	h := newHost(t)
	before := h.files()
	h.run("dpkg --install /portmon-hub.deb; portmon-hub init --url tls://hub.example.net:4222")
	h.wantCalled("installation", "daemon-reload")
	h.run("dpkg --install /portmon-hub.deb")
	h.wantCalled("upgrade", "daemon-reload", "try-restart portmon-hub.service")
	h.run("dpkg --remove portmon-hub; test -s /var/lib/portmon-hub/ca.key")
	h.wantCalled("removal", "stop portmon-hub.service", "--quiet --no-reload disable portmon-hub.service", "daemon-reload")
	h.run("dpkg --purge portmon-hub; test ! -e /var/lib/portmon-hub")
	h.wantCalled("purge")
	for _, name := range h.files() {
		if !slices.Contains(before, name) {
			t.Errorf("purge left %s behind", name)
		}
	}
}
