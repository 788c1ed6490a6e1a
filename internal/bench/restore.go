package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// restore measures how long it takes to put bans back into a new table, with the time that they have left, and to save them.
func restore(b *bench, t *scope) (*table, error) {
	tab := newContest("Restore and save bans", "`nft`")
	tab.note = "Restoring begins with no table and ends with all bans in it. nft loads a file with the table and the bans; the watcher makes " +
		"them when somebody else has made the table; `portmon apply` makes both, and saves. Edits cost the kernel more while anybody on " +
		"the machine listens for them, as a watcher does."
	rounds := min(b.count, 5) // it takes a while
	addrs := randomAddrs(manyBans)
	file, err := b.file("restore.nft", ruleset.Compile(ruleset.Default(), ruleset.Features{ReversePath: true, Log: true}, nil).String()+leftText(addrs))
	if err != nil {
		return nil, err
	}
	toml, err := b.watchConfig("")
	if err != nil {
		return nil, err
	}
	plain, err := newBanned(t, addrs)
	if err != nil {
		return nil, err
	}
	if _, err := measure(plain.host, []string{b.portmon, "save", "--config", toml}); err != nil {
		return nil, err
	}
	work := thousands(manyBans) + " bans"
	err = tab.contest("restore "+work, rounds, []runner{
		{"`nft -f`", plain.host, plain.remove, nil, plain.whole("nft", "-f", file)},
		{"`portmon apply`", plain.host, plain.remove, nil, plain.whole(b.portmon, "apply", "--config", toml)},
	})
	if err != nil {
		return nil, err
	}
	// The table is the one that the file is of, or not; nothing is put back in any case.
	err = tab.contest("save "+work, rounds, []runner{
		{"`nft list table`", plain.host, nil, pipeline("nft", "list", "table", "inet", "portmon"), nil},
		{"`portmon save`", plain.host, nil, pipeline(b.portmon, "save", "--config", toml), nil},
	})
	if err != nil {
		return nil, err
	}

	// Only now: all edits cost the kernel more as soon as anybody listens for them, in whatever namespace.
	watched, err := newBanned(t, addrs)
	if err != nil {
		return nil, err
	}
	if toml, err = b.watchConfig(""); err != nil {
		return nil, err
	}
	w, err := b.watch(t, watched.host, toml)
	if err != nil {
		return nil, err
	}
	err = tab.contest("restore "+work+", with a watcher", rounds, []runner{
		{"`nft -f`", plain.host, plain.remove, nil, plain.whole("nft", "-f", file)},
		{"the watcher", watched.host, func() error { return w.forsake(watched) }, nil, func() (usage, error) { return w.restore(watched) }},
	})
	if err != nil {
		return nil, err
	}
	return tab, tab.contest("save "+work+", with a watcher", rounds, []runner{
		{"`nft list table`", plain.host, nil, pipeline("nft", "list", "table", "inet", "portmon"), nil},
		{"the watcher", watched.host, nil, nil, w.save},
	})
}

// leftText are bans in the first tier as nft writes them, each with the time it has left.
func leftText(addrs []netip.Addr) string {
	var b strings.Builder
	b.WriteString("add element inet portmon ban4 {\n")
	for _, a := range addrs {
		fmt.Fprintf(&b, "%s timeout 8h expires 7h30m,\n", a)
	}
	b.WriteString("}\n")
	return b.String()
}

// bannedHost is a host whose table has bans as the packet path makes them, half an hour ago.
type bannedHost struct {
	host *netnstest.Host
	conn *nftset.Conn
	bans int
}

func newBanned(t *scope, addrs []netip.Addr) (*bannedHost, error) {
	h := &bannedHost{host: netnstest.NewHost(t, "host"), bans: len(addrs)}
	var err error
	if h.conn, err = open(t, h.host); err != nil {
		return nil, err
	}
	if _, err := ruleset.Apply(h.conn, ruleset.Default()); err != nil {
		return nil, err
	}
	return h, h.conn.Add(firstTier, func(yield func(nftset.Element) bool) {
		for _, a := range addrs {
			el := element(a)
			el.Timeout, el.Expires = 8*time.Hour, 7*time.Hour+30*time.Minute
			if !yield(el) {
				return
			}
		}
	})
}

func (h *bannedHost) remove() error {
	_, err := ruleset.Remove(h.conn, firstTier.Table.Name)
	return err
}

// whole is a command after which all bans must be there.
func (h *bannedHost) whole(command ...string) func() (usage, error) {
	return func() (usage, error) {
		u, err := measure(h.host, command)
		if err == nil {
			err = wantCount(h.conn, firstTier.Name, h.bans)
		}
		return u, err
	}
}

// forsake deletes the table, and returns when the watcher knows.
func (w *watcher) forsake(h *bannedHost) error {
	if err := h.remove(); err != nil {
		return err
	}
	_, _, err := w.idle()
	return err
}

// restore makes the table, and returns when the watcher has put all bans back and is done with what follows from that.
func (w *watcher) restore(h *bannedHost) (u usage, err error) {
	_, used, err := w.idle()
	if err != nil {
		return u, err
	}
	if u.Begin, err = monotonic(); err != nil {
		return u, err
	}
	if _, err := ruleset.Apply(h.conn, ruleset.Default()); err != nil {
		return u, err
	}
	if u.End, err = h.steady(); err != nil {
		return u, err
	}
	time.Sleep(resyncs)
	_, cpu, err := w.idle()
	if err != nil {
		return u, err
	}
	u.CPU = cpu - used
	_, u.RSS, err = w.memory()
	return u, err
}

// steady returns the moment since when all bans are there, and stay.
func (h *bannedHost) steady() (since time.Duration, err error) {
	const long = 200 * time.Millisecond
	err = await("restore bans", time.Millisecond, func() (bool, error) {
		now, err := monotonic()
		if err != nil {
			return false, err
		}
		n, err := count(h.conn, firstTier.Name)
		switch {
		case n != h.bans: // more than there will be, while a transaction runs that adds and deletes
			since = 0
		case since == 0:
			since = now
		}
		return since > 0 && now-since > long, err
	})
	return since, err
}

// save has the watcher save.
func (w *watcher) save() (u usage, err error) {
	_, used, err := w.idle()
	if err != nil {
		return u, err
	}
	if u.Begin, err = monotonic(); err != nil {
		return u, err
	}
	if err := w.Save(); err != nil {
		return u, err
	}
	if u.End, err = monotonic(); err != nil {
		return u, err
	}
	_, cpu, err := w.idle()
	if err != nil {
		return u, err
	}
	u.CPU = cpu - used
	_, u.RSS, err = w.memory()
	return u, err
}
