package config

import (
	"fmt"
	"slices"
	"testing"
)

func TestGeo(t *testing.T) {
	got := mustParse(t, "[geo]\ndatabases = [\"/usr/share/GeoIP/GeoLite2-ASN.mmdb\", '/b']").Geo
	if !slices.Equal(got, []string{"/usr/share/GeoIP/GeoLite2-ASN.mmdb", "/b"}) {
		t.Errorf("got %q", got)
	}
	paths := ""
	for i := range 17 {
		paths += fmt.Sprintf("'/%d', ", i)
	}
	const want = `the absolute path of a file, such as "/usr/share/GeoIP/GeoLite2-ASN.mmdb"`
	for text, fault := range map[string]string{
		`databases = ["a.mmdb"]`:            `2:1: geo.databases: "a.mmdb": want ` + want,
		`databases = [""]`:                  `2:1: geo.databases: "": want ` + want,
		`databases = ["/usr/share/GeoIP/"]`: `2:1: geo.databases: "/usr/share/GeoIP/": want ` + want,
		`databases = ["/a", "/b", "/a"]`:    `2:1: geo.databases: "/a": stands twice`,
		`databases = [7]`:                   `2:1: geo.databases: 7: want ` + want,
		`databases = "/a.mmdb"`:             `2:1: geo.databases: "/a.mmdb": want a list in brackets`,
		`database = "/a.mmdb"`:              `2:1: geo.database: unknown key: want databases`,
		`databases = [` + paths + `"/b"]`:   `2:1: geo.databases: 18 databases: want at most 16`,
	} {
		wantFaults(t, "[geo]\n"+text, fault)
	}
	wantFaults(t, "geo = true", `1:1: geo: true: want a table, a line [geo] with its keys below`)
}
