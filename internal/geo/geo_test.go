package geo

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/portmon/portmon/internal/geo/geotest"
)

func maxmindASN(n uint32, name string) mmdbtype.Map {
	return mmdbtype.Map{
		"autonomous_system_number": mmdbtype.Uint32(n), "autonomous_system_organization": mmdbtype.String(name),
	}
}

func country(key, code string) mmdbtype.Map {
	names := mmdbtype.Map{"en": mmdbtype.String("Name"), "de": mmdbtype.String("Name")}
	return mmdbtype.Map{mmdbtype.String(key): mmdbtype.Map{"iso_code": mmdbtype.String(code), "names": names}}
}

// write writes a file in a folder of the test.
func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpen(t testing.TB, paths ...string) *DB {
	t.Helper()
	db, err := Open(paths...)
	t.Cleanup(db.Close)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

var addr = netip.MustParseAddr("203.0.113.7")

// TestLayouts has the fields of each kind of database.
func TestLayouts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		record mmdbtype.Map
		want   Place
	}{
		"GeoLite2-ASN":            {maxmindASN(64500, "Example Ltd"), Place{"", 64500, "Example Ltd"}},
		"GeoLite2-Country":        {country("country", "DE"), Place{Country: "DE"}},
		"registered, not nowhere": {country("registered_country", "SE"), Place{Country: "SE"}},
		"IPinfo Lite": {mmdbtype.Map{
			"asn": mmdbtype.String("AS64501"), "as_name": mmdbtype.String("Example"), "country": mmdbtype.String("Germany"),
			"country_code": mmdbtype.String("DE"),
		}, Place{"DE", 64501, "Example"}},
		"IPinfo Country ASN": {mmdbtype.Map{
			"asn": mmdbtype.String("AS64502"), "as_name": mmdbtype.String("Example"), "country": mmdbtype.String("NL"),
			"country_name": mmdbtype.String("Netherlands"),
		}, Place{"NL", 64502, "Example"}},
		"IPinfo ASN": {mmdbtype.Map{
			"asn": mmdbtype.String("AS64503"), "name": mmdbtype.String("Example"), "country": mmdbtype.String("FR"),
		}, Place{"FR", 64503, "Example"}},
		"a number as such": {mmdbtype.Map{"asn": mmdbtype.Uint32(64504)}, Place{ASN: 64504}},
		"no code":          {mmdbtype.Map{"country_code": mmdbtype.String("d\x1b"), "asn": mmdbtype.String("AS1")}, Place{ASN: 1}},
		"of other types": {mmdbtype.Map{
			"country": mmdbtype.Uint32(1), "asn": mmdbtype.Map{"a": mmdbtype.Bool(true)}, "as_name": mmdbtype.Slice{}, "name": mmdbtype.String("x"),
		}, Place{Network: "x"}},
		"hostile": {maxmindASN(1, "\x1b[31m"+strings.Repeat("\u202eé\n", 10_000)), Place{"", 1, "\ufffd[31m" + strings.Repeat("\ufffdé ", 19) + "\ufffdé…"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := mustOpen(t, write(t, "db.mmdb", geotest.Build(t, mmdbwriter.Options{DatabaseType: name}, geotest.Records{"203.0.113.0/24": tt.record})))
			if got := db.Lookup(addr); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if got := db.Lookup(netip.MustParseAddr("203.0.112.7")); got != (Place{}) {
				t.Errorf("of an address that is not in it: %+v", got)
			}
		})
	}
}

// TestFamilies asks for both families, and for prefixes.
func TestFamilies(t *testing.T) {
	t.Parallel()
	both := mustOpen(t, write(t, "both.mmdb", geotest.Build(t, mmdbwriter.Options{}, geotest.Records{
		"203.0.113.0/25": country("country", "DE"), "203.0.113.128/25": country("country", "NL"), "2001:db8:1::/48": country("country", "FR"),
		"2001:db8:2:0:8000::/65": country("country", "SE"),
	})))
	four := mustOpen(t, write(t, "four.mmdb", geotest.Build(t, mmdbwriter.Options{IPVersion: 4}, geotest.Records{"203.0.113.0/24": country("country", "DE")})))
	for _, tt := range []struct {
		db           *DB
		prefix, want string
	}{
		{both, "203.0.113.7/32", "DE"}, {both, "203.0.113.200/32", "NL"}, {both, "203.0.113.0/25", "DE"}, {both, "203.0.113.0/24", ""},
		{both, "2001:db8:1:2::/64", "FR"}, {both, "2001:db8::/32", ""}, {both, "2001:db8:2::/64", ""}, {both, "::ffff:203.0.113.7/128", "DE"},
		{four, "203.0.113.7/32", "DE"}, {four, "203.0.113.0/24", "DE"}, {four, "2001:db8:1::/64", ""}, {four, "0.0.0.0/0", ""}, {nil, "203.0.113.7/32", ""},
	} {
		if got := tt.db.Of(netip.MustParsePrefix(tt.prefix)).Country; got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.prefix, got, tt.want)
		}
	}
	if got := both.Of(netip.Prefix{}); got != (Place{}) {
		t.Errorf("nothing: %+v", got)
	}
}

// TestOrder has two databases of which each knows a part.
func TestOrder(t *testing.T) {
	t.Parallel()
	network := write(t, "asn.mmdb", geotest.Build(t, mmdbwriter.Options{}, geotest.Records{"203.0.113.0/24": maxmindASN(64500, "First")}))
	both := write(t, "both.mmdb", geotest.Build(t, mmdbwriter.Options{}, geotest.Records{"203.0.0.0/16": {
		"asn": mmdbtype.String("AS1"), "as_name": mmdbtype.String("Second"), "country": mmdbtype.String("NL"),
	}}))
	missing := filepath.Join(t.TempDir(), "missing.mmdb")
	db, err := Open(missing, network, both)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("of a missing one: %v", err)
	}
	for a, want := range map[string]string{"203.0.113.7": "NL, AS64500 First", "203.0.112.7": "NL, AS1 Second", "192.0.2.7": ""} {
		if got := db.Lookup(netip.MustParseAddr(a)).String(); got != want {
			t.Errorf("%s: got %q, want %q", a, got, want)
		}
	}
	if faults := db.Use(both, both); faults != nil || db.Lookup(addr).Network != "Second" {
		t.Errorf("of the second alone: %v, %v", db.Lookup(addr), faults)
	}
	db.Close()
	if got := db.Lookup(addr); got != (Place{}) {
		t.Errorf("when closed: %+v", got)
	}
}

// TestFaults opens what is no use, and keeps what was there before.
func TestFaults(t *testing.T) {
	t.Parallel()
	good := geotest.Build(t, mmdbwriter.Options{}, geotest.Records{"0.0.0.0/1": maxmindASN(1, "Low"), "128.0.0.0/1": maxmindASN(2, "High")})
	damaged := bytes.Clone(good)
	for i := bytes.LastIndex(good, []byte("\xab\xcd\xef")) - 1; !bytes.HasSuffix(damaged[:i], make([]byte, 16)); i-- {
		damaged[i] = 0xff // all records
	}
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "empty"},
		{"text", []byte("<html>429 Too Many Requests</html>"), "invalid MaxMind DB file"},
		{"truncated", good[:len(good)/2], "invalid MaxMind DB file"},
		{"beginning lost", good[len(good)/3:], "invalid metadata"},
		{"records overwritten", damaged, "read geo database"},
		{"another kind", geotest.Build(t, mmdbwriter.Options{DatabaseType: "Anonymous\x1b-IP"}, geotest.Records{"0.0.0.0/1": {"is_anonymous": mmdbtype.Bool(true)}}),
			`a database of the kind "Anonymous\x1b-IP", which has neither countries nor networks`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := write(t, "db.mmdb", tt.data)
			db, err := Open(path)
			t.Cleanup(db.Close)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("open: got %v, want %s", err, tt.want)
			}
			if got := db.Lookup(addr); got != (Place{}) {
				t.Errorf("it knows %+v", got)
			}
			geotest.Replace(t, path, good)
			if err := errors.Join(db.Refresh()...); err != nil || db.Lookup(addr).Network != "High" {
				t.Errorf("a good one in its place: %v", err)
			}
			geotest.Replace(t, path, tt.data)
			if err := errors.Join(db.Refresh()...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("replaced: got %v, want %s", err, tt.want)
			}
			if err := errors.Join(db.Refresh()...); err != nil {
				t.Errorf("it is said again: %v", err)
			}
			if got := db.Lookup(addr).Network; got != "High" {
				t.Errorf("the one before is not kept: %q", got)
			}
		})
	}
}

// TestOtherFiles opens what is no file.
func TestOtherFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, maxSize+1)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "not a regular file", pipe: "not a regular file", large: "larger than 1024 MiB"} {
		if _, err := Open(path); err == nil || err.Error() != "read geo database "+path+": "+want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestRefresh replaces, removes and rewrites a database.
func TestRefresh(t *testing.T) {
	t.Parallel()
	of := func(name string) []byte {
		return geotest.Build(t, mmdbwriter.Options{}, geotest.Records{"203.0.113.0/24": maxmindASN(1, name)})
	}
	path := write(t, "db.mmdb", of("one"))
	db := mustOpen(t, path)
	refresh := func(want string) (err error) {
		t.Helper()
		err = errors.Join(db.Refresh()...)
		if got := db.Lookup(addr).Network; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		return err
	}
	geotest.Replace(t, path, of("two"))
	if err := refresh("two"); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := refresh("two"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := refresh("two"); err != nil {
		t.Errorf("it is said again: %v", err)
	}
	geotest.Replace(t, path, of("three"))
	if err := refresh("three"); err != nil {
		t.Error(err)
	}

	// A program that writes it in place first makes it empty, under our feet.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if got := db.Lookup(addr); got != (Place{}) {
		t.Errorf("an empty file knows %+v", got)
	}
	if err := refresh(""); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Error(err)
	}
	if err := os.WriteFile(path, of("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refresh("four"); err != nil {
		t.Error(err)
	}
}

// TestAtOnce looks up while databases are replaced.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	data := geotest.Build(t, mmdbwriter.Options{}, geotest.Records{"203.0.113.0/24": maxmindASN(1, "one")})
	path := write(t, "db.mmdb", data)
	db := mustOpen(t, path)
	done := make(chan int)
	go func() {
		n := 0
		for range 2000 {
			if db.Lookup(addr).Network == "one" {
				n++
			}
		}
		done <- n
	}()
	for i := 0; ; i++ {
		select {
		case n := <-done:
			if n != 2000 {
				t.Errorf("%d of 2000 were known", n)
			}
			return
		default:
			geotest.Replace(t, path, data)
			if err := errors.Join(db.Refresh()...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// FuzzOpen has files with any content.
func FuzzOpen(f *testing.F) {
	f.Add(geotest.Build(f, mmdbwriter.Options{}, geotest.Records{"0.0.0.0/1": maxmindASN(1, "Low"), "2000::/3": country("country", "DE")}))
	f.Add(geotest.Build(f, mmdbwriter.Options{IPVersion: 4, RecordSize: 24}, geotest.Records{"203.0.113.0/24": {"asn": mmdbtype.String("AS1"), "name": mmdbtype.String("x")}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		db, _ := Open(write(t, "db.mmdb", data))
		defer db.Close()
		for _, a := range []string{"203.0.113.7", "2001:db8::1", "::"} {
			if p := db.Lookup(netip.MustParseAddr(a)); len(p.Country) > 2 || len(p.Network) > 4*(maxName+1) || strings.ContainsAny(p.Network, "\n\x1b") {
				t.Errorf("%q", p)
			}
		}
	})
}
