package nftset

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Family is the address family of a table: NFPROTO_* of
// include/uapi/linux/netfilter.h.
type Family uint8

// The families that hold sets of addresses and ports.
const (
	FamilyINet Family = unix.NFPROTO_INET
	FamilyIPv4 Family = unix.NFPROTO_IPV4
	FamilyIPv6 Family = unix.NFPROTO_IPV6
)

// String returns nft's name of the family.
func (f Family) String() string {
	switch f {
	case FamilyINet:
		return "inet"
	case FamilyIPv4:
		return "ip"
	case FamilyIPv6:
		return "ip6"
	}
	return fmt.Sprintf("family %d", uint8(f))
}

// Table names a table.
type Table struct {
	Family Family
	Name   string
}

// String returns the table as nft writes it: "inet portmon".
func (t Table) String() string { return t.Family.String() + " " + t.Name }

// Flags are the properties a set is born with: enum nft_set_flags of
// include/uapi/linux/netfilter/nf_tables.h. The kernel answers EEXIST to an
// attempt to change them.
type Flags uint32

// The flags this package knows.
const (
	FlagInterval Flags = unix.NFT_SET_INTERVAL // elements are intervals
	FlagTimeout  Flags = unix.NFT_SET_TIMEOUT  // elements may expire
	FlagDynamic  Flags = unix.NFT_SET_EVAL     // the packet path adds elements; excludes FlagInterval
)

// String returns the flags as nft writes them: "interval,timeout".
func (f Flags) String() string {
	var names []string
	for _, n := range []struct {
		flag Flags
		name string
	}{{FlagDynamic, "dynamic"}, {FlagInterval, "interval"}, {FlagTimeout, "timeout"}} {
		if f&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// Set describes a named set.
type Set struct {
	Table Table
	Name  string
	Type  KeyType
	Flags Flags

	// Timeout is the time after which an element expires that has no timeout of
	// its own; 0 means never. The kernel keeps milliseconds.
	Timeout time.Duration

	// Size is the most elements the set takes; 0 means no limit, but 65,535 as
	// soon as a rule adds to the set. In an interval set each end counts as an
	// element too. Kernels from 6.16 on do not count the ends any more.
	Size uint32

	// Count is the number of elements in the kernel, expired ones not yet
	// collected among them; -1 if the kernel does not report it: before 6.16 it
	// does not, and for interval sets its number is not that of intervals. It
	// is only set by [Conn.Set] and [Conn.Sets]; [Conn.Count] finds out in any
	// case.
	Count int
}

// String returns the set as errors name it: "inet portmon ban4".
func (s *Set) String() string { return s.Table.String() + " " + s.Name }

// fault returns why this package cannot read and write the set, nil if it can.
func (s *Set) fault() error {
	switch {
	case s.Type.Len() == 0:
		return fmt.Errorf("unknown key type %v", s.Type)
	case s.Flags&FlagInterval != 0 && !s.Type.isAddr() && s.Type != InetService:
		return fmt.Errorf("intervals of %v are not supported", s.Type)
	}
	return nil
}
