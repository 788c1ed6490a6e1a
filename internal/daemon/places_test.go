package daemon

import (
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/maxmind/mmdbwriter"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/geo/geotest"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/watch"
)

// TestPlaces has a database come, and another after it, and looks at all that
// says where an offender is.
func TestPlaces(t *testing.T) {
	t.Parallel()
	l := newLab(t, "1s", "2s", "3s")
	path := filepath.Join(l.dir, "places.mmdb")
	put := func(country string) {
		geotest.Replace(t, path, geotest.Build(t, mmdbwriter.Options{}, geotest.Records{
			"198.18.0.0/24": geotest.Place(country, "AS64500", "Example \x1b Ltd"), "2001:db8:1::/48": geotest.Place("FR", "", ""),
		}))
	}
	l.metrics, l.extra = metricsAddr, fmt.Sprintf("[geo]\ndatabases = [%q]\n", path)
	dir := l.notices(roleNote)
	p := l.start()
	p.awaitJournal("level=WARN", "open geo database", path)
	counted := func(country, want string) {
		t.Helper()
		series := fmt.Sprintf("portmon_country_bans_made_total{country=%q}", country)
		lab.Await(t, series+" is "+want, func() bool { v, _ := l.value(metricsAddr, series); return v == want })
	}
	l.Offend(offender)
	counted("unknown", "1")
	put("DE")
	if err := p.ask().Reload(nil); err != nil {
		t.Fatal(err)
	}
	l.AwaitFree(offender)
	l.Offend(offender)
	p.awaitJournal("msg=escalated", "address=198.18.0.1 cause=trap tier=2 port=tcp/23 country=DE asn=64500 network=\"Example � Ltd\" offences=")
	counted("DE", "1")
	l.Offend(offender6)
	counted("FR", "1")
	p.awaitJournal("msg=banned", "address=2001:db8:1:1::/64 cause=trap tier=1 port=tcp/23 country=FR offences=")
	var places []geo.Place
	err := p.ask().Events(t.Context(), 2, false, func(line []byte) error {
		e, err := events.Decode(line)
		places = append(places, e.Place)
		return err
	})
	if want := []geo.Place{{Country: "DE", ASN: 64500, Network: "Example \uFFFD Ltd"}, {Country: "FR"}}; err != nil || !slices.Equal(places, want) {
		t.Errorf("the events are from %+v, want %+v, error %v", places, want, err)
	}
	lab.Await(t, "a notice", func() bool { return len(notes(t, dir)) == 1 })

	put("NL") // and nobody says so
	sent := 0
	lab.Await(t, "it is read", func() bool {
		l.Internet.Send(l.SYN(source(2+sent%200), lab.TrapTCP))
		sent++
		v, _ := l.value(metricsAddr, `portmon_country_bans_made_total{country="NL"}`)
		return v != ""
	})
	if n := len(p.journal("geo database")); n != 1 {
		t.Errorf("the journal says %d times that the database is missing", n)
	}
	p.stop()
}

// TestManyCountries has bans from more countries than the metrics tell apart.
func TestManyCountries(t *testing.T) {
	t.Parallel()
	var news []watch.News
	for i := range 2 * maxCountries {
		prefix := netip.PrefixFrom(source(i<<8), 24)
		place := geo.Place{Country: string([]byte{'A' + byte(i/26), 'A' + byte(i%26)})}
		news = append(news, watch.News{Kind: watch.Banned, Source: prefix, Place: place}, watch.News{Kind: watch.Lifted, Source: prefix, Place: place})
	}
	d := newDaemon(Config{Config: &config.Config{Geo: []string{"some.mmdb"}}, Stderr: io.Discard})
	t.Cleanup(d.stderr.close)
	d.countCountries(news)
	if len(d.countries) != maxCountries+1 || d.countries["AA"] != 1 || d.countries["other"] != maxCountries {
		t.Errorf("counted %v", d.countries)
	}
}
