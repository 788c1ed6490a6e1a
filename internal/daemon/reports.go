package daemon

import (
	"slices"

	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// proven reports whether a source is to be reported to others: it is banned, is
// not spared meanwhile, and has asked for several ports.
func (d *daemon) proven(n *watch.News) (bool, error) {
	conn, err := d.config.Dial()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	h, err := ruleset.Open(conn, d.tableName())
	if err != nil {
		return false, err
	}
	st, err := h.Lookup(n.Source.Addr())
	if err != nil || h.Observe || !st.Banned() || st.Whitelisted != nil || st.Allowed != nil {
		return false, err
	}
	if ports, _ := h.ScanPorts(); n.Cause == ruleset.CauseScan && ports >= notice.MinPorts {
		return true, nil
	}
	ports, err := h.Probed(st.Source)
	if !slices.Contains(ports, n.Port) {
		ports = append(ports, n.Port)
	}
	return len(ports) >= notice.MinPorts, err
}
