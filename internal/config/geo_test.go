package config

import (
	"slices"
	"strings"
	"testing"
)

func TestGeo(t *testing.T) {
	got := mustParse(t, "[geo]\ndatabases = [\"/usr/share/GeoIP/GeoLite2-ASN.mmdb\", '/b']").Geo
	if !slices.Equal(got, []string{"/usr/share/GeoIP/GeoLite2-ASN.mmdb", "/b"}) {
		t.Errorf("got %q", got)
	}
	const want = `the absolute path of a file, such as "/usr/share/GeoIP/GeoLite2-ASN.mmdb"`
	for text, fault := range map[string]string{
		`databases = ["a.mmdb"]`:                                 `2:1: geo.databases: "a.mmdb": want ` + want,
		`databases = [""]`:                                       `2:1: geo.databases: "": want ` + want,
		`databases = ["/usr/share/GeoIP/"]`:                      `2:1: geo.databases: "/usr/share/GeoIP/": want ` + want,
		`databases = [7]`:                                        `2:1: geo.databases: 7: want ` + want,
		`databases = "/a.mmdb"`:                                  `2:1: geo.databases: "/a.mmdb": want a list in brackets`,
		`database = "/a.mmdb"`:                                   `2:1: geo.database: unknown key: want databases`,
		`databases = [` + strings.Repeat(`"/a", `, 17) + `"/b"]`: `2:1: geo.databases: 18 databases: want at most 16`,
	} {
		wantFaults(t, "[geo]\n"+text, fault)
	}
	wantFaults(t, "geo = true", `1:1: geo: true: want a table, a line [geo] with its keys below`)
}
