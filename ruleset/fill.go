package ruleset

import "github.com/portmon/portmon/nftset"

// Fill tells how full a set is.
type Fill struct {
	Set   string
	Count int    // elements
	Size  uint32 // the most that it takes; 0 is no limit
}

// Full reports whether the set takes nothing more.
func (f Fill) Full() bool { return f.Size > 0 && f.Count >= int(f.Size) }

// Fill counts the elements of the sets that the packet path fills, and of those
// of prefixes, in the order of the table. Kernels before 6.16 do not know these
// numbers, so that the sets are read.
func (h *Handle) Fill() ([]Fill, error) {
	var out []Fill
	for i := range h.Sets {
		set := &h.Sets[i]
		role, _ := RoleOf(set.Name)
		if !isOurs(set.Name) || set.Flags&nftset.FlagDynamic == 0 && role != RoleNet {
			continue
		}
		n, err := h.c.Count(set)
		if err != nil {
			return nil, err
		}
		out = append(out, Fill{set.Name, n, set.Size})
	}
	return out, nil
}
