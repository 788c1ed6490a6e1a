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
	var e encoder
	e.string(unix.NFTA_SET_TABLE, t.Name)
	e.string(unix.NFTA_SET_NAME, name)
	var s Set
	err := c.get(unix.NFT_MSG_GETSET, t.Family, e.b, func(m nfnl.Message) (err error) {
		var anonymous bool
		if s, anonymous, err = parseSet(m); anonymous {
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
		s, anonymous, err := parseSet(m)
		if err == nil && s.Table == t && !anonymous {
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
	described, err := c.Set(s.Table, s.Name)
	if err != nil {
		return 0, err
	}
	return c.count(described)
}

func (c *Conn) count(s *Set) (n int, err error) {
	if s.Count >= 0 {
		return s.Count, nil
	}
	for _, err = range c.Elements(s) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

func parseSet(m nfnl.Message) (s Set, anonymous bool, err error) {
	s.Table.Family, s.Count = Family(m.Body[0]), -1
	for a, err := range nfnl.Attrs(m.Attrs()) {
		if err != nil {
			return s, false, err
		}
		switch a.Type {
		case unix.NFTA_SET_TABLE:
			s.Table.Name = string(a.Text())
		case unix.NFTA_SET_NAME:
			s.Name = string(a.Text())
		case unix.NFTA_SET_FLAGS:
			anonymous = a.Uint32()&unix.NFT_SET_ANONYMOUS != 0
			s.Flags = Flags(a.Uint32())
		case unix.NFTA_SET_KEY_TYPE:
			s.Type = KeyType(a.Uint32())
		case unix.NFTA_SET_TIMEOUT:
			s.Timeout = duration(a.Uint64())
		case unix.NFTA_SET_DESC:
			for d, err := range nfnl.Attrs(a.Data) {
				if err != nil {
					return s, false, err
				}
				if d.Type == unix.NFTA_SET_DESC_SIZE {
					s.Size = d.Uint32()
				}
			}
		case nftaSetCount:
			s.Count = int(a.Uint32())
		}
	}
	if s.Flags&FlagInterval != 0 {
		s.Count = -1
	}
	return s, anonymous, nil
}
