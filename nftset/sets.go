package nftset

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// nftaSetCount is NFTA_SET_COUNT of include/uapi/linux/netfilter/nf_tables.h,
// new in Linux 6.16.
const nftaSetCount = 20

// Set reads the description of one named set. The error is os.ErrNotExist if
// there is no such set, or no such table.
func (c *Conn) Set(t Table, name string) (*Set, error) {
	var s Set
	err := c.get(unix.NFT_MSG_GETSET, t.Family, func(e *encoder) {
		e.string(unix.NFTA_SET_TABLE, t.Name)
		e.string(unix.NFTA_SET_NAME, name)
	}, func(m nfnl.Message) (err error) {
		var named bool
		if s, named, err = parseSet(m); err == nil && !named {
			err = unix.ENOENT
		}
		return err
	})
	if err != nil {
		return nil, &OpError{Op: "describe set", Object: (&Set{Table: t, Name: name}).String(), Err: err}
	}
	return &s, nil
}

// Sets reads the descriptions of all named sets of a table; none if there is no
// such table.
func (c *Conn) Sets(t Table) ([]Set, error) {
	var e encoder
	e.string(unix.NFTA_SET_TABLE, t.Name)
	var sets []Set
	err := c.dump(unix.NFT_MSG_GETSET, t.Family, e.b, func(m nfnl.Message) error {
		s, named, err := parseSet(m)
		if named && s.Table == t {
			sets = append(sets, s)
		}
		return err
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, &OpError{Op: "read sets of table", Object: t.String(), Err: err}
	}
	return sets, nil
}

// Count returns the number of elements of a set, of which only Table and Name
// matter; in an interval set they are intervals. It is [Set.Count] where the
// kernel reports that, at once, including elements that have expired and await
// collection, usually for a second. Elsewhere (Linux before 6.16, interval
// sets) the set is read. The error is os.ErrNotExist if there is no such set.
func (c *Conn) Count(s *Set) (int, error) {
	s, err := c.Set(s.Table, s.Name)
	if err != nil {
		return 0, err
	}
	if s.Count >= 0 {
		return s.Count, nil
	}
	n := 0
	for _, err := range c.Elements(s) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

func parseSet(m nfnl.Message) (s Set, named bool, err error) {
	attrs, err := nfnl.Parse(m.Attrs())
	if err != nil {
		return s, false, err
	}
	desc, err := nfnl.Parse(attrs[unix.NFTA_SET_DESC].Data)
	if err != nil {
		return s, false, err
	}
	flags := attrs[unix.NFTA_SET_FLAGS].Uint32()
	s = Set{
		Table:   Table{Family(m.Body[0]), string(attrs[unix.NFTA_SET_TABLE].Text())},
		Name:    string(attrs[unix.NFTA_SET_NAME].Text()),
		Type:    KeyType(attrs[unix.NFTA_SET_KEY_TYPE].Uint32()),
		Flags:   Flags(flags),
		Timeout: duration(attrs[unix.NFTA_SET_TIMEOUT].Uint64()),
		Size:    desc[unix.NFTA_SET_DESC_SIZE].Uint32(),
		Count:   -1,
	}
	if count, ok := attrs[nftaSetCount]; ok && s.Flags&FlagInterval == 0 {
		s.Count = int(count.Uint32())
	}
	return s, flags&unix.NFT_SET_ANONYMOUS == 0, nil
}
