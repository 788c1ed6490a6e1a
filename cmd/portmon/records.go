package main

import (
	"bytes"
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// records keeps the entries of a list until they can be sorted: a million of them in 48 MB.
type records struct {
	all     []record
	sets    []recordSet
	reasons []string // the first is ""
	causes  bool     // whether something is known of why there are bans
	number  map[string]uint32
	begun   time.Time
}

// record is an entry without pointers, in 48 bytes.
type record struct {
	addr             [16]byte
	timeout, expires time.Duration
	reason           uint32 // place in records.reasons
	read             uint16 // when it was read, in ticks since the first
	set              uint8  // place in records.sets
	bits             uint8
	proto            uint8
	port             uint16
	offences         uint16 // at most what it can be
}

// tick is how exactly records know when they were read. A million of them take the kernel half a minute, which would make a
// difference to what is said of the first.
const tick = 100 * time.Millisecond

type recordSet struct {
	name string
	tier int
	ipv6 bool
}

// newRecords makes room for as many entries as are expected.
func newRecords(expected int) *records {
	return &records{all: make([]record, 0, expected), reasons: []string{""}, number: map[string]uint32{"": 0}}
}

func (r *records) add(e entry) {
	if len(r.all) == 0 {
		r.begun = e.read
	}
	rec := record{
		timeout: e.timeout, expires: e.expires, bits: uint8(e.prefix.Bits()),
		read:  uint16(min(e.read.Sub(r.begun)/tick, math.MaxUint16)),
		proto: e.proto, port: e.port, offences: uint16(min(e.offences, math.MaxUint16)),
	}
	r.causes = r.causes || e.cause() != ""
	addr := e.prefix.Addr()
	rec.addr = addr.As16()
	set := slices.IndexFunc(r.sets, func(s recordSet) bool { return s.name == e.set })
	if set < 0 {
		set = len(r.sets)
		r.sets = append(r.sets, recordSet{e.set, e.tier, addr.Is6()})
	}
	rec.set = uint8(set)
	n, ok := r.number[e.reason]
	if !ok {
		n = uint32(len(r.reasons))
		r.reasons = append(r.reasons, e.reason)
		r.number[e.reason] = n
	}
	rec.reason = n
	r.all = append(r.all, rec)
}

func (r *records) entry(rec *record) entry {
	set := &r.sets[rec.set]
	addr := netip.AddrFrom16(rec.addr)
	if !set.ipv6 {
		addr = addr.Unmap()
	}
	return entry{
		prefix: netip.PrefixFrom(addr, int(rec.bits)), set: set.name, tier: set.tier,
		timeout: rec.timeout, expires: rec.expires, reason: r.reasons[rec.reason],
		read:     r.begun.Add(time.Duration(rec.read) * tick),
		offences: int(rec.offences), proto: rec.proto, port: rec.port,
	}
}

// sort puts the newest first, and last those of which nobody can tell.
func (r *records) sort() {
	slices.SortFunc(r.all, func(a, b record) int {
		ageA, okA := age(a.timeout, a.expires)
		ageB, okB := age(b.timeout, b.expires)
		switch {
		case okA && !okB:
			return -1
		case okB && !okA:
			return 1
		}
		ageA -= time.Duration(a.read) * tick // what was read later has aged longer
		ageB -= time.Duration(b.read) * tick
		if okA && ageA != ageB {
			return cmp.Compare(ageA, ageB)
		}
		return cmp.Or(bytes.Compare(a.addr[:], b.addr[:]), cmp.Compare(a.bits, b.bits))
	})
}
