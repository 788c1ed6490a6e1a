package geo

import (
	"errors"
	"strconv"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/portmon/portmon/internal/text"
)

// The fields of databases: first those of MaxMind and DB-IP, then those of
// IPinfo. The last one for the country is where an address is registered, for
// addresses without a location.
var (
	countries = [][]any{{"country", "iso_code"}, {"country_code"}, {"country"}, {"registered_country", "iso_code"}}
	numbers   = [][]any{{"autonomous_system_number"}, {"asn"}}
	names     = [][]any{{"autonomous_system_organization"}, {"as_name"}, {"name"}}
)

// fields are the fields of a record.
type fields struct {
	result maxminddb.Result
	err    error // of a damaged field
}

// decode decodes a field, if it is present and of the right type.
func (f *fields) decode(to any, path []any) bool {
	err := f.result.DecodePath(to, path...)
	var damaged maxminddb.InvalidDatabaseError
	if errors.As(err, &damaged) {
		f.err = err
	}
	return err == nil
}

func (f *fields) country() string {
	for _, path := range countries {
		var s string
		if f.decode(&s, path) && len(s) == 2 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
			return s
		}
	}
	return ""
}

// number returns the number of the network. Some databases write "AS64500".
func (f *fields) number() uint32 {
	for _, path := range numbers {
		var n uint32
		var s string
		if f.decode(&n, path) && n > 0 {
			return n
		}
		if f.decode(&s, path) {
			if n, err := strconv.ParseUint(strings.TrimPrefix(s, "AS"), 10, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return 0
}

func (f *fields) name() string {
	for _, path := range names {
		var s string
		if f.decode(&s, path) && s != "" {
			return text.Printable(text.Shorten(strings.TrimSpace(s), maxName))
		}
	}
	return ""
}
