// Package geotest makes databases of places for tests.
package geotest

import (
	"bytes"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// Records are those of a database, by prefix. One within another comes behind it.
type Records map[string]mmdbtype.Map

// Build returns a database.
func Build(t testing.TB, opts mmdbwriter.Options, records Records) []byte {
	t.Helper()
	opts.IncludeReservedNetworks = true // those of documentation
	w, err := mmdbwriter.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range slices.Sorted(maps.Keys(records)) {
		_, network, err := net.ParseCIDR(prefix)
		if err == nil {
			err = w.Insert(network, records[prefix])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Place is a record as IPinfo has them.
func Place(country, asn, network string) mmdbtype.Map {
	return mmdbtype.Map{
		"country_code": mmdbtype.String(country), "asn": mmdbtype.String(asn), "as_name": mmdbtype.String(network),
	}
}

// Replace puts a file in the place of another, as updaters do.
func Replace(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}
