package packaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

// file is a regular file in a package.
type file struct {
	mode int64
	data []byte
}

// readTar returns the regular files of an archive by their absolute path, or
// the path within its one folder.
func readTar(t *testing.T, r io.Reader, prefix string) map[string]file {
	t.Helper()
	files := map[string]file{}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			data, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			files["/"+strings.TrimPrefix(strings.TrimPrefix(header.Name, prefix), "/")] = file{header.Mode, data}
		}
		if header.Uid != 0 || header.Gid != 0 || header.Mode&0o022 != 0 {
			t.Errorf("%s belongs to %d:%d, mode %o", header.Name, header.Uid, header.Gid, header.Mode)
		}
	}
}

func unzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sources are the files of the repository that packages must hold, by their path in a deb or rpm.
func sources(t *testing.T) map[string]string {
	t.Helper()
	want := map[string]string{
		"/etc/portmon/portmon.toml":                                  "../internal/config/portmon.toml",
		"/usr/share/doc/portmon/README.md":                           "../README.md",
		"/usr/share/doc/portmon/copyright":                           "copyright",
		"/usr/share/portmon/nftables.service.d/portmon.conf":         "systemd/nftables.service.d/portmon.conf",
		"/usr/share/portmon/portmon-watch.service.d/ntfy-token.conf": "systemd/portmon-watch.service.d/ntfy-token.conf",
		"/usr/share/portmon/portmon-watch.service.d/fleet-key.conf":  "systemd/portmon-watch.service.d/fleet-key.conf",
		"/usr/share/doc/portmon/changelog.gz":                        "../CHANGELOG.md",
		"/usr/share/man/man8/portmon.8.gz":                           "man/portmon.8",
		"/usr/share/man/man5/portmon.toml.5.gz":                      "man/portmon.toml.5",
	}
	for _, unit := range units {
		want["/usr/lib/systemd/system/"+unit] = filepath.Join("systemd", unit)
	}
	for pattern, folder := range map[string]string{
		"../docs/*.md": "/usr/share/doc/portmon/docs/", "README.md": "/usr/share/doc/portmon/packaging/", "fail2ban/portmon.conf": "/etc/fail2ban/action.d/", "../docs/*grafana*.json": "/usr/share/portmon/grafana/",
		"grafana/*.json": "/usr/share/portmon/grafana/", "../docs/alerts.yml": "/usr/share/portmon/prometheus/",
		"siem/*.xml": "/usr/share/portmon/siem/", "siem/*.conf": "/usr/share/portmon/siem/", "siem/*.yaml": "/usr/share/portmon/siem/",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			want[folder+filepath.Base(name)] = name
		}
	}
	return want
}

var link = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)

// goPackages are what README.md links to for those who read the source.
var goPackages = []string{"nftset", "ruleset", "netnstest"}

// checkLinks fails the test if a document of a package links to a file that is not in the package.
func checkLinks(t *testing.T, files map[string]file) {
	t.Helper()
	n := 0
	for name, f := range files {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(string(f.data), -1) {
			if strings.Contains(m[1], "://") || slices.Contains(goPackages, m[1]) {
				continue
			}
			n++
			if _, ok := files[path.Join(path.Dir(name), m[1])]; !ok {
				t.Errorf("%s links to %s, which is not in the package", name, m[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("%d links, want more", n)
	}
}

// filesOfDeb returns the regular files in a deb.
func filesOfDeb(t *testing.T, deb string) map[string]file {
	t.Helper()
	mustTool(t, "dpkg-deb", "--info", deb)
	var stderr bytes.Buffer
	fsys := exec.Command(lab.Program(t, "dpkg-deb"), "--fsys-tarfile", deb)
	fsys.Stderr = &stderr
	data, err := fsys.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	return readTar(t, bytes.NewReader(data), ".")
}

func TestDebContents(t *testing.T) {
	deb := packageFile(t, "deb")
	files := filesOfDeb(t, deb)
	for path, source := range sources(t) {
		want, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := files[path]
		if !ok {
			t.Errorf("no %s", path)
			continue
		}
		if filepath.Ext(path) == ".gz" {
			got.data = unzipped(t, got.data)
		}
		if !bytes.Equal(got.data, want) || got.mode&0o777 != 0o644 {
			t.Errorf("%s is not %s, or has the mode %o", path, source, got.mode)
		}
	}
	for _, path := range []string{
		"/usr/share/bash-completion/completions/portmon", "/usr/share/zsh/vendor-completions/_portmon",
		"/usr/share/fish/vendor_completions.d/portmon.fish",
	} {
		if !bytes.Contains(files[path].data, []byte("portmon")) {
			t.Errorf("no %s", path)
		}
	}
	if text := unzipped(t, files["/usr/share/doc/portmon/LICENSES-OTHERS.txt.gz"].data); bytes.Count(text, []byte("\n==== ")) < 10 ||
		!bytes.Contains(text, []byte("==== Go go1.")) || !bytes.Contains(text, []byte("==== github.com/google/nftables ")) {
		t.Errorf("the licences of others are not there: %.400s", text)
	}
	checkLinks(t, files)
	checkProgram(t, files["/usr/bin/portmon"], "portmon", "version")

	// What dpkg must not overwrite is all that is in /etc.
	conffiles := strings.Fields(mustTool(t, "dpkg-deb", "--info", deb, "conffiles"))
	var etc []string
	for path := range files {
		if strings.HasPrefix(path, "/etc/") {
			etc = append(etc, path)
		}
	}
	if slices.Sort(conffiles); !slices.Equal(conffiles, slices.Sorted(slices.Values(etc))) {
		t.Errorf("conffiles are %q: want %q", conffiles, etc)
	}
	for field, want := range map[string]string{"Package": "portmon", "Version": "1.2.3-1", "Depends": "", "Pre-Depends": ""} {
		if got := strings.TrimSpace(mustTool(t, "dpkg-deb", "--field", deb, field)); got != want {
			t.Errorf("%s is %q: want %q", field, got, want)
		}
	}
}

// checkProgram looks at what was built: it needs no library, and says its
// version when it is run with arg.
func checkProgram(t *testing.T, program file, name, arg string) {
	t.Helper()
	binary, err := elf.NewFile(bytes.NewReader(program.data))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is linked dynamically: %v", name, p.Type)
		}
	}
	if program.mode&0o777 != 0o755 {
		t.Errorf("%s has the mode %o", name, program.mode)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, program.data, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, arg).CombinedOutput()
	if err != nil || !strings.HasPrefix(strings.TrimSpace(string(out))+" ", name+" "+version+" ") {
		t.Errorf("%s %s: %v, %s", name, arg, err, out)
	}
}

func TestRPMContents(t *testing.T) {
	rpm := packageFile(t, "rpm")
	query := func(args ...string) []string {
		out := mustTool(t, "rpm", append([]string{"--query", "--package", "--nosignature", rpm}, args...)...)
		return strings.Split(strings.TrimSpace(out), "\n")
	}
	list := query("--list")
	want := []string{"/usr/bin/portmon", "/usr/share/zsh/site-functions/_portmon", "/etc/portmon"}
	for path := range sources(t) {
		want = append(want, path)
	}
	for _, path := range want {
		if !slices.Contains(list, path) {
			t.Errorf("no %s", path)
		}
	}
	if got := query("--configfiles"); !slices.Contains(got, "/etc/portmon/portmon.toml") {
		t.Errorf("configuration files are %q", got)
	}
	if got := query("--queryformat", "%{VERSION} %{RELEASE} %{BUILDHOST} %{BUILDTIME}\n"); got[0] != "1.2.3 1 portmon "+epoch {
		t.Errorf("version, release, host and time of building are %s", got)
	}
	for _, need := range query("--requires") {
		if need != "" && need != "/bin/sh" && !strings.HasPrefix(need, "rpmlib(") && !strings.HasPrefix(need, "config(") {
			t.Errorf("it requires %s", need)
		}
	}
	for tag, script := range map[string]string{"POSTIN": "postinst", "PREUN": "prerm", "POSTUN": "postrm"} {
		want, err := os.ReadFile(filepath.Join("scripts", script))
		if err != nil {
			t.Fatal(err)
		}
		if got := query("--queryformat", "%{"+tag+"}"); strings.Join(got, "\n") != strings.TrimSpace(string(want)) {
			t.Errorf("%s is not %s: %s", tag, script, got)
		}
	}
}

// The apk has OpenRC services in the place of units.
func TestAPKContents(t *testing.T) {
	data, err := os.ReadFile(packageFile(t, "apk"))
	if err != nil {
		t.Fatal(err)
	}
	files := readTar(t, bytes.NewReader(unzipped(t, data)), "")
	checkProgram(t, files["/usr/bin/portmon"], "portmon", "version")
	for path, source := range map[string]string{
		"/etc/init.d/portmon": "openrc/portmon", "/etc/init.d/portmon-watch": "openrc/portmon-watch",
		"/.pre-deinstall": "scripts/apk-deinstall", "/.post-upgrade": "scripts/apk-post-upgrade",
	} {
		want, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if got := files[path]; !bytes.Equal(got.data, want) || got.mode&0o777 != 0o755 {
			t.Errorf("%s is not %s, or has the mode %o", path, source, got.mode)
		}
	}
	for path := range files {
		if strings.Contains(path, "systemd") || strings.HasPrefix(path, "/.post") && path != "/.post-upgrade" {
			t.Errorf("it has %s", path)
		}
	}
	if info := string(files["/.PKGINFO"].data); !strings.Contains(info, "pkgver = 1.2.3-r1\n") {
		t.Errorf(".PKGINFO is %s", info)
	}
}

func TestTarContents(t *testing.T) {
	path := packageFile(t, "tar")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := readTar(t, bytes.NewReader(unzipped(t, data)), strings.TrimSuffix(filepath.Base(path), ".tar.gz"))
	want := []string{"/portmon.toml", "/README.md", "/LICENSE", "/LICENSES-OTHERS.txt", "/completions/_portmon", "/systemd/nftables.service.d/portmon.conf"}
	for _, unit := range units {
		want = append(want, "/systemd/"+unit)
	}
	for _, name := range want {
		if _, ok := files[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
	checkProgram(t, files["/portmon"], "portmon", "version")
	checkLinks(t, files)
}
