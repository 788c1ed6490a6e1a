package ruleset

import (
	"github.com/portmon/portmon/nftset"
)

// ByHand returns the part of a record that is certainly not the work of the
// packet path: a ban with a comment that does not say offence, of a prefix, or
// for ever.
func (r Record) ByHand() Record {
	r.Banned = r.Banned && (r.Cause == CauseHand || r.Remaining == 0)
	r.Step, r.StepRemaining = 0, 0
	return r
}

// staying returns what stays of what a table holds once it is to drop. What is
// read is changed by packets meanwhile: what they add was only observed.
func (h *Handle) staying(stays func(Record) Record) ([]Record, error) {
	if stays == nil {
		stays = Record.ByHand
	}
	var out []Record
	for r, err := range h.Records() {
		if err != nil {
			return nil, err
		}
		if r.Allowed {
			continue // their sets stay
		}
		if r = stays(r); !r.Banned && r.Step == 0 {
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

// elements returns what the sets of a table that is made anew are to hold for it
// to have what some records say, by their names.
func (s Spec) elements(records []Record) map[string][]nftset.Element {
	t := Compile(s)
	h := &Handle{State: &State{Table: t.Table, Prefix6: s.Prefix6}}
	for i := range t.Sets {
		h.Sets = append(h.Sets, t.Sets[i].Set)
	}
	e := newEdit(h, records)
	for i := range records {
		r := &records[i]
		if isCovered(s.whitelist(familyOfAddr(r.Source.Addr())), nftset.Prefix(r.Source).Interval) {
			continue
		}
		if !h.isKey(r.Source) {
			r.Step = 0 // of a network by another prefix length
		}
		e.put(int32(i))
	}
	out := make(map[string][]nftset.Element)
	for _, set := range h.roleSets(allRoles...) {
		role, _ := RoleOf(set.Name)
		longest := make(map[nftset.Interval]nftset.Element)
		for el := range e.elements(role, e.in[set.Name]) {
			if old, ok := longest[el.Interval]; !ok || lasts(el) > lasts(old) {
				longest[el.Interval] = el
			}
		}
		for _, el := range longest {
			f := familyOf(set.Type)
			switch {
			case set.Size == 0 || len(out[set.Name]) < int(set.Size):
				out[set.Name] = append(out[set.Name], el)
			case role.Bans():
				el.Interval = h.addresses(role, el.Interval)
				e.nets[RoleNet][f] = append(e.nets[RoleNet][f], el)
			}
		}
	}
	for _, f := range families {
		out[f.net()] = flatten(e.nets[RoleNet][f])
	}
	return out
}
