package ruleset

import (
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/portmon/portmon/nftset"
)

// Handle reads and changes the sources that a table in the kernel holds. Like
// its connection it is for one goroutine at a time.
type Handle struct {
	*State
	c *nftset.Conn
}

// Open reads the state of the inet table of that name. There being none is not
// an error: Exists is false then. Missing privilege is os.ErrPermission.
func Open(c *nftset.Conn, name string) (*Handle, error) {
	s, err := Read(c, name)
	if err != nil {
		return nil, err
	}
	return &Handle{s, c}, nil
}

// Refresh reads the state again. After an error it is as it was.
func (h *Handle) Refresh() error {
	s, err := Read(h.c, h.State.Name)
	if err == nil {
		h.State = s
	}
	return err
}

// Recount reads the counters again, and the state only if it has changed since.
func (h *Handle) Recount() error {
	if now, err := h.c.Generation(); err != nil || !h.Exists || now != h.Generation {
		return h.Refresh()
	}
	return h.readCounters(h.c)
}

// Retry calls f, and again with the state read anew if one of the sets is not
// there: an [Apply] that changes the ladder makes and deletes some. Once the
// table is gone it returns what f did.
func (h *Handle) Retry(f func() error) error {
	return beside(func(bool) (again bool, err error) {
		if err = f(); !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		if fault := h.Refresh(); fault != nil {
			return false, fault
		}
		return h.Exists, err
	})
}

// get asks for one element of a set; ok is false if there is no such element,
// or no such set.
func (h *Handle) get(name string, key nftset.Key) (el nftset.Element, ok bool, err error) {
	set := h.Set(name)
	if set == nil || set.Type != key.Type() {
		return el, false, nil
	}
	el, err = h.c.Get(set, key)
	if errors.Is(err, os.ErrNotExist) {
		return el, false, nil
	}
	return el, err == nil, err
}

// finder finds the element of a set that covers an interval; ok is false if
// there is none, or no such set.
type finder func(set string, iv nftset.Interval) (el nftset.Element, ok bool, err error)

// find is a finder that asks the kernel.
func (h *Handle) find(set string, iv nftset.Interval) (el nftset.Element, ok bool, err error) {
	el, ok, err = h.get(set, iv.From)
	return el, ok && el.Covers(iv), err
}

// few is up to how many questions are put to the kernel one by one, in place of
// finding out about the set first.
const few = 64

// finder returns a finder for so many questions. For many it reads the sets at
// once.
func (h *Handle) finder(questions int) finder {
	if questions <= few {
		return h.find
	}
	all := make(map[string][]nftset.Element)
	return func(name string, iv nftset.Interval) (el nftset.Element, ok bool, err error) {
		held, read := all[name]
		if set := h.Set(name); !read && set != nil {
			if held, err = h.read(set); err != nil {
				return el, false, err
			}
			all[name] = held
		}
		i, _ := slices.BinarySearchFunc(held, iv.From, func(el nftset.Element, k nftset.Key) int { return el.To.Compare(k) })
		if i < len(held) && held[i].Covers(iv) {
			return held[i], true, nil
		}
		return el, false, nil
	}
}

// Source returns the prefix by which an address is banned: itself alone, or for
// IPv6 the network that it is in. Without a table that is the default's.
func (h *Handle) Source(a netip.Addr) (netip.Prefix, error) {
	return h.source(a.Unmap().WithZone(""), h.find)
}

func (h *Handle) source(a netip.Addr, find finder) (netip.Prefix, error) {
	bits := a.BitLen()
	if a.Is4() || h.prefix6() == bits {
		return netip.PrefixFrom(a, bits), nil
	}
	_, single, err := find(setSingle6, nftset.Addr(a).Interval)
	if err == nil && !single {
		_, single, err = find(setOwn6, nftset.Single(networkKey(a, ownLen)).Interval)
	}
	switch {
	case err != nil:
		return netip.Prefix{}, err
	case single:
		return netip.PrefixFrom(a, bits), nil
	}
	return h.network(a), nil
}

// networkKey returns the key of the network of that length around an address.
func networkKey(a netip.Addr, bits int) nftset.Key {
	return nftset.AddrKey(netip.PrefixFrom(a, bits).Masked().Addr())
}

// network returns the network by which an address is banned unless it is banned
// by itself.
func (s *State) network(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = s.prefix6()
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func (s *State) prefix6() int {
	if s.Prefix6 > 0 {
		return s.Prefix6
	}
	return Default().Prefix6
}

// keys returns the keys by which a set of sources can hold an address: that of
// its network, and its own.
func (s *State) keys(a netip.Addr) []nftset.Key {
	network, own := nftset.AddrKey(s.network(a).Addr()), nftset.AddrKey(a)
	if network == own {
		return []nftset.Key{own}
	}
	return []nftset.Key{network, own}
}

// Fill is how full a set is.
type Fill struct {
	Set   string
	Count int    // elements
	Size  uint32 // the most that it takes; 0 is no limit
}

// Full reports whether the set takes nothing more.
func (f Fill) Full() bool { return f.Size > 0 && f.Count >= int(f.Size) }

// Fill counts the elements of the sets that the packet path fills, and of those
// of prefixes, in the order of the table. Kernels before 6.16 do not report
// these numbers, so the sets are read.
func (h *Handle) Fill() ([]Fill, error) {
	var out []Fill
	for i := range h.Sets {
		set := &h.Sets[i]
		role, _ := RoleOf(set.Name)
		if !isOurs(set.Name) || set.Flags&nftset.FlagDynamic == 0 && role != RoleNet && role != RoleAllow && role != RoleFleet {
			continue
		}
		n, err := h.c.Count(set)
		if err != nil {
			return nil, err
		}
		fill := Fill{set.Name, n, set.Size}
		if role == RoleAllow {
			fill.Size = MaxAllowed
		}
		out = append(out, fill)
	}
	return out, nil
}
