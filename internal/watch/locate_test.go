package watch

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/lab"
)

// TestSlowPlaces has the disk of the geo databases stall: the watcher answers and
// saves, and what happened is told with its place, once that is known.
func TestSlowPlaces(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	asked, stall := make(chan struct{}), make(chan struct{})
	once, release := sync.OnceFunc(func() { close(asked) }), sync.OnceFunc(func() { close(stall) })
	var mu sync.Mutex
	var told []News
	w := l.watch(func(c *Config) {
		c.State = path
		c.Locate = func(netip.Prefix) geo.Place {
			once()
			<-stall
			return geo.Place{Country: "DE", ASN: 64500}
		}
		c.News = func(news []News) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, news...)
		}
	})
	t.Cleanup(release) // before the watcher is stopped
	sources := l.Sources(1)
	n := uint64(len(sources))
	l.Offend(sources...)
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	if err := w.Save(ctx); err != nil {
		t.Fatal("while the disk stalls: ", err)
	}
	if c := l.tallied(path); c.Bans["trap 1"] != n || c.Countries != nil {
		t.Errorf("%+v is counted while the disk stalls", c)
	}
	release()
	w.stop()
	if c := l.tallied(path); c.Bans["trap 1"] != n || c.Countries["DE"] != n || c.Networks["AS64500"] != n {
		t.Errorf("%+v is counted at the end", c)
	}
	mu.Lock()
	defer mu.Unlock()
	for i, n := range told {
		if i >= len(sources) || !n.Source.Contains(sources[i]) || n.Place.Country != "DE" {
			t.Errorf("news %d is %+v", i, n)
		}
	}
	if len(told) != len(sources) {
		t.Errorf("%d news", len(told))
	}
}

// TestNoNewsToLocate has the loop come by without news. What is passed on from
// beside it has it come by again, so it would never rest.
func TestNoNewsToLocate(t *testing.T) {
	t.Parallel()
	w := &Watcher{config: Config{Locate: func(netip.Prefix) geo.Place { return geo.Place{} }}}
	w.unlocated.wake = make(chan struct{}, 1)
	if w.publish(nil); len(w.unlocated.wake) > 0 {
		t.Error("places are looked up without news")
	}
	if w.publish([]News{{Kind: Banned}}); len(w.unlocated.wake) == 0 {
		t.Error("places are not looked up of news")
	}
}
