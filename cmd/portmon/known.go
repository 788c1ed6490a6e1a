package main

import (
	"errors"
	"io/fs"
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/ruleset"
)

// knowledge is what the watcher knows of sources, and the kernel does not.
type knowledge struct {
	records map[netip.Prefix]state.Record
	saved   ledger.Now
	watched bool // a watcher has told it; otherwise it is what the last one, or `portmon save`, has left in the file
}

// knowledge asks the watcher, or reads what it has left: of some sources, or of all if none are named. What cannot be had is not known,
// and no error: nobody needs a watcher.
func (p *cli) knowledge(of ...netip.Prefix) *knowledge {
	k := &knowledge{records: make(map[netip.Prefix]state.Record)}
	path := p.statePath()
	if w, err := p.watcher(path); err == nil {
		defer w.Close()
		if h, recs, err := w.Records(of...); err == nil {
			k.saved, k.watched = h.Saved, true
			for _, rec := range recs {
				k.records[rec.Prefix] = rec
			}
			return k
		}
	}
	f, err := state.Open(path)
	if err != nil {
		return k
	}
	defer f.Close()
	k.saved = f.Saved
	for rec := range f.Records() {
		k.records[rec.Prefix] = rec
	}
	return k
}

// knowledgeOf is what is known of targets.
func (p *cli) knowledgeOf(s *ruleset.State, only []target) *knowledge {
	var of []netip.Prefix
	for _, t := range only {
		if !t.address {
			return p.knowledge()
		}
		of = append(of, t.source(s))
	}
	return p.knowledge(of...)
}

// statePath returns where bans are remembered. With a wrong configuration that is the default: this is for commands that need none.
func (p *cli) statePath() string {
	conf, err := config.Load(p.configFile)
	if err != nil {
		conf = config.Default()
	}
	return conf.Watch.State
}

// about fills in what is known of the offence that led to a ban. What is known of another ban of the same source says nothing.
func (k *knowledge) about(e *entry) {
	const tolerance = 2 * time.Second
	rec, ok := k.records[e.prefix]
	if !ok || e.tier == 0 || rec.Offences == 0 || rec.ByHand || !rec.Banned || rec.Tier != e.tier {
		return
	}
	if until := k.saved.Wall.Add(rec.Left); until.Sub(e.read.Add(e.expires)).Abs() > tolerance {
		return
	}
	e.offences, e.proto, e.port = rec.Offences, rec.Proto, rec.Port
}

// offender returns what is known of a source that has offended; when says when it did last.
func (k *knowledge) offender(source netip.Prefix) (rec state.Record, when time.Time, ok bool) {
	rec, ok = k.records[source]
	return rec, k.saved.Wall.Add(-rec.Age), ok && rec.Offences > 0
}

// watcher connects to the watcher that keeps its state in a file. The error is [control.ErrNone] if there is none, and also if it
// watches another network namespace, or if we may not ask it: who may edit the table may do without.
func (p *cli) watcher(statePath string) (*control.Client, error) {
	w, err := control.Dial(control.Path(statePath))
	if errors.Is(err, fs.ErrPermission) {
		return nil, control.ErrNone
	}
	if err != nil {
		return nil, err
	}
	status, err := w.Status()
	if err == nil && status.NetNS != state.Here(0).NetNS {
		err = control.ErrNone
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// portName returns "tcp/23", or "" if it is not known.
func portName(proto uint8, port uint16) string {
	switch {
	case proto == 0:
		return ""
	case port == 0:
		return ledger.ProtocolName(proto)
	}
	return ledger.ProtocolName(proto) + "/" + strconv.Itoa(int(port))
}
