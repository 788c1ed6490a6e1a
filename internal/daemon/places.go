package daemon

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/internal/watch"
)

const (
	// replacedAfter is how often the databases of places are looked at: whether a
	// program has replaced one.
	replacedAfter = 10 * time.Second
	// maxCountries is how many countries the metrics tell apart. Those that most
	// bans come from are among the first to come.
	maxCountries = 40
)

// startPlaces has the databases of a configuration tell where sources are.
func (d *daemon) startPlaces(conf *config.Config) { d.warnAll(d.places.Use(conf.Geo...)) }

// followPlaces follows the databases until the context ends.
func (d *daemon) followPlaces(ctx context.Context) {
	for sleep(ctx, replacedAfter); ctx.Err() == nil; sleep(ctx, replacedAfter) {
		d.warnAll(d.places.Refresh())
	}
}

func (d *daemon) warnAll(faults []error) {
	for _, err := range faults {
		d.journal.Warn(err.Error())
	}
}

// users says to which services sources are connected. To list all connections
// takes a while where there are many, and is done in a fiftieth of the time.
type users struct {
	of   func(netip.Prefix) uint16
	at   time.Time
	took time.Duration
}

func (u *users) port(source netip.Prefix) uint16 {
	if start := time.Now(); u.of == nil || start.Sub(u.at) >= 50*u.took {
		u.of = listeners.Users()
		u.at, u.took = time.Now(), time.Since(start)
	}
	return u.of(source)
}

// countCountries counts bans by country, if there are databases. It is called
// with d.mu held.
func (d *daemon) countCountries(news []watch.News) {
	if len(d.current.Geo) == 0 {
		return
	}
	for i := range news {
		if news[i].Kind > watch.ByHand {
			continue
		}
		country := cmp.Or(news[i].Place.Country, "unknown")
		if _, known := d.countries[country]; !known && len(d.countries) >= maxCountries {
			country = "other"
		}
		d.countries[country]++
	}
}

func (c *collector) collectCountries(out sink) {
	c.mu.Lock()
	countries := maps.Clone(c.countries)
	c.mu.Unlock()
	for country, n := range countries {
		send(out, "country_bans_made_total", n, country)
	}
}
