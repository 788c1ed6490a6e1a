package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func diffPrefixes(want, got []netip.Prefix) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}))
}

// writeFiles writes a folder of files and returns its path.
func writeFiles(t *testing.T, contents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWhitelistFile(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"portmon.toml": "whitelist = [\"10.0.0.0/8\"]\nwhitelist_files = [\"offices.txt\", \"empty.txt\", \"windows.txt\"]",
		"offices.txt": `# offices

192.0.2.7
   2001:db8::/32   # trailing comment
	198.51.100.0-198.51.100.3#another
198.51.100.8 - 198.51.100.9 ; like the lists of portmon ban
198.51.101.0/255.255.255.0 // so is this
#192.0.2.8
192.0.2.9`,
		"empty.txt":   "",
		"windows.txt": "\uFEFF203.0.113.1\r\n\r\n203.0.113.2 # two\r\n",
	})
	c, err := Load(filepath.Join(dir, "portmon.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := prefixes("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "198.51.100.0/30", "198.51.100.8/31", "198.51.101.0/24", "192.0.2.9/32", "203.0.113.1/32", "203.0.113.2/32")
	if diff := diffPrefixes(want, c.Spec.Whitelist); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %v", c.Warnings)
	}
}

// Files add to the default whitelist; only the key "whitelist" replaces it.
func TestWhitelistFileAddsToDefault(t *testing.T) {
	open := files(map[string]string{"/etc/portmon/a.txt": "192.0.2.7\n"})
	c, err := parsed("/etc/portmon/portmon.toml", []byte(`whitelist_files = ["a.txt"]`), open)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diffPrefixes(append(Default().Spec.Whitelist, prefixes("192.0.2.7/32")...), c.Spec.Whitelist); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWhitelistFileNames(t *testing.T) {
	tests := []struct{ config, list, want string }{
		{"/etc/portmon/portmon.toml", "a.txt", "/etc/portmon/a.txt"},
		{"/etc/portmon/portmon.toml", "lists/a.txt", "/etc/portmon/lists/a.txt"},
		{"/etc/portmon/portmon.toml", "../a.txt", "/etc/a.txt"},
		{"/etc/portmon/portmon.toml", "/srv/a.txt", "/srv/a.txt"},
		{"portmon.toml", "a.txt", "a.txt"},
		{"conf/portmon.toml", "a.txt", "conf/a.txt"},
	}
	for _, tt := range tests {
		var got string
		_, err := parsed(tt.config, fmt.Appendf(nil, "whitelist_files = [%q]", tt.list), func(name string) (fs.File, error) {
			got = name
			return files(map[string]string{name: ""})(name)
		})
		if err != nil || got != tt.want {
			t.Errorf("%s in %s opens %q, error %v: want %q", tt.list, tt.config, got, err, tt.want)
		}
	}
}

// A file that cannot be read is a fault of the line which lists it.
func TestWhitelistFileUnreadable(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"portmon.toml": "whitelist_files = [\n  \"missing.txt\",\n  \"\",\n  \".\",\n]\n[trap]\nmaxretry = 0",
	})
	_, err := Load(filepath.Join(dir, "portmon.toml"))
	if err == nil {
		t.Fatal("no error")
	}
	want := strings.ReplaceAll(`DIR/portmon.toml:1:1: whitelist_files: "": want the name of a file
DIR/portmon.toml:1:1: whitelist_files: "missing.txt": open DIR/missing.txt: no such file or directory
DIR/portmon.toml:1:1: whitelist_files: ".": read DIR: not a regular file
DIR/portmon.toml:7:1: trap.maxretry: 0: want an integer from 1 to 1000`, "DIR", dir)
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the error does not match fs.ErrNotExist")
	}
}

// A device never ends, and neither does an error that a file meets while it is
// read pass unnoticed.
func TestWhitelistFileNotRead(t *testing.T) {
	dir := writeFiles(t, map[string]string{"large.txt": strings.Repeat("#", maxWhitelistSize+1)})
	in := func(name string) (fs.File, error) { return openFile(filepath.Join(dir, name)) } // a short name is quoted whole
	for name, open := range map[string]func(string) (fs.File, error){"/dev/zero": openFile, "large.txt": in} {
		want := map[string]string{
			"/dev/zero": "read /dev/zero: not a regular file",
			"large.txt": "read large.txt: larger than 64 MiB",
		}[name]
		_, err := parsed("p.toml", fmt.Appendf(nil, "whitelist_files = [%q]", name), open)
		if want = fmt.Sprintf("p.toml:1:1: whitelist_files: %q: %s", name, want); err == nil || err.Error() != want {
			t.Errorf("the error is %v\nwant %s", err, want)
		}
	}
	_, err := parsed("p.toml", []byte(`whitelist_files = ["a.txt"]`), func(string) (fs.File, error) { return os.Open(dir) })
	if !errors.Is(err, unix.EISDIR) {
		t.Errorf("the error is %v", err)
	}
}

// Faults in whitelist files carry the file's name and the line, and come after
// those of the configuration.
func TestWhitelistFileFaults(t *testing.T) {
	open := files(map[string]string{
		"b.txt": "# list\n192.0.2.1\n  example.org\n192.0.2.1/33 # no\n192.0.2.1 192.0.2.2\n192.0.2.1, 192.0.2.2\r\n\xff\xfe\n",
		"a.txt": "192.0.2\n",
	})
	_, err := parsed("p.toml", []byte("whitelist_files = [\"b.txt\", \"a.txt\"]\nfoo = 1"), open)
	if err == nil {
		t.Fatal("no error")
	}
	want := `p.toml:2:1: foo: unknown key: want mode, whitelist, whitelist_files, whitelist_interfaces, whitelist_names, trap, scan, ban, allow, knock, geo, report, fleet or watch
b.txt:3:3: "example.org": want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range such as 192.0.2.10-192.0.2.20; names are not resolved
b.txt:4:1: "192.0.2.1/33": want a prefix length from 0 to 32 after the slash
b.txt:5:1: "192.0.2.1 192.0.2.2": want one entry per line
b.txt:6:1: "192.0.2.1, 192.0.2.2": want one entry per line
b.txt:7:1: want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range such as 192.0.2.10-192.0.2.20; names are not resolved
a.txt:1:1: "192.0.2": want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range such as 192.0.2.10-192.0.2.20; names are not resolved`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWhitelistWarnings(t *testing.T) {
	open := files(map[string]string{"a.txt": "192.0.2.1\n127.0.0.1/24\n::ffff:192.0.2.7\n::/0\n"})
	c, err := parsed("p.toml", []byte("whitelist = [\n\"127.0.0.1/24\"]\nwhitelist_files = [\"a.txt\"]"), open)
	if err != nil {
		t.Fatal(err)
	}
	want := `p.toml:1:1: whitelist: "127.0.0.1/24": taken as 127.0.0.0/24: the address has bits set beyond the prefix length
a.txt:2:1: "127.0.0.1/24": taken as 127.0.0.0/24: the address has bits set beyond the prefix length
a.txt:3:1: "::ffff:192.0.2.7": taken as 192.0.2.7: packets carry it as IPv4
a.txt:4:1: "::/0": this is every address of its family`
	if diff := cmp.Diff(want, warnings(c)); diff != "" {
		t.Errorf("warnings (-want +got)\n%s", diff)
	}
	if diff := diffPrefixes(prefixes("127.0.0.0/24", "192.0.2.1/32", "127.0.0.0/24", "192.0.2.7/32", "::/0"), c.Spec.Whitelist); diff != "" {
		t.Errorf("whitelist (-want +got)\n%s", diff)
	}
}

// A list in a wrong format does not bury the faults of the configuration.
func TestWhitelistFileLimitsReports(t *testing.T) {
	open := files(map[string]string{"names.txt": "# names\n" + strings.Repeat("example.org\n", 20+37)})
	for text, want := range map[string][]string{
		`whitelist_files = ["names.txt"]`: {
			0: "names.txt:2:1: ", 19: "names.txt:21:1: ", 20: "names.txt:22:1: and more: only 20 are shown",
		},
		"whitelist_files = [\"names.txt\"]\nfoo = 1": {
			0: "p.toml:2:1: foo: ", 1: "names.txt:2:1: ", 20: "names.txt:21:1: and more: only 20 are shown",
		},
	} {
		_, err := parsed("p.toml", []byte(text), open)
		var faults Errors
		if ok := errors.As(err, &faults); !ok || len(faults) != len(want) {
			t.Fatalf("%d faults: want 20, and what says that there are more", len(faults))
		}
		for i, want := range want {
			if got := faults[i].Error(); !strings.HasPrefix(got, want) {
				t.Errorf("fault %d is %q: want %q", i, got, want)
			}
		}
	}
}

// A configuration listed as its own whitelist file is a list of bad lines; no
// recursion, no confusion.
func TestWhitelistFileIsTheConfiguration(t *testing.T) {
	const text = `whitelist_files = ["p.toml"]`
	_, err := parsed("p.toml", []byte(text), files(map[string]string{"p.toml": text}))
	if err == nil || err.Error() != `p.toml:1:1: want one entry per line` {
		t.Errorf("the error is %v", err)
	}
}

func manyAddresses(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d.%d.%d.%d\n", 1+i>>24, i>>16&255, i>>8&255, i&255)
	}
	return b.String()
}

func TestWhitelistFileLarge(t *testing.T) {
	open := files(map[string]string{"a.txt": manyAddresses(100_000)})
	c, err := parsed("p.toml", []byte("whitelist = []\nwhitelist_files = [\"a.txt\"]"), open)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(c.Spec.Whitelist); n != 100_000 {
		t.Errorf("%d entries: want 100,000", n)
	}
}

// A short line can be a range of many prefixes.
func TestWhitelistFileOfRanges(t *testing.T) {
	t.Parallel()
	open := files(map[string]string{"a.txt": strings.Repeat("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe\n", maxWhitelist/250)})
	_, err := parsed("p.toml", []byte("whitelist_files = [\"a.txt\"]"), open)
	if err == nil || !strings.HasSuffix(err.Error(), ": more than 4800000 prefixes in all") {
		t.Errorf("the error is %v", err)
	}
}

// The limit to keep is 100 ms for 100,000 lines.
func BenchmarkWhitelistFile(b *testing.B) {
	open := files(map[string]string{"a.txt": manyAddresses(100_000)})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parsed("p.toml", []byte(`whitelist_files = ["a.txt"]`), open); err != nil {
			b.Fatal(err)
		}
	}
}
