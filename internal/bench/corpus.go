package main

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/portmon/portmon/nftset"
)

// What is measured is random, but the same in every run.
func newRand() *rand.Rand { return rand.New(rand.NewPCG(2026, 1)) }

// randomPrefixes returns n disjoint prefixes, three of five of them of IPv4, of
// all lengths from /20 and /48 on.
func randomPrefixes(n int) []netip.Prefix {
	r := newRand()
	prefixes := make([]netip.Prefix, 0, n)
	for block := range distinct(r, n*3/5, 1<<20-1<<17) { // a /20 each, below 224.0.0.0
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], block<<12|r.Uint32N(1<<12))
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4(a), 20+r.IntN(13)).Masked())
	}
	for block := range distinct(r, n-n*3/5, 1<<24) { // a /48 each, in 2a00::/24 and what follows
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], 0x2a<<56|uint64(block)<<16|uint64(r.Uint32N(1<<16)))
		binary.BigEndian.PutUint64(a[8:], r.Uint64())
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom16(a), 48+r.IntN(81)).Masked())
	}
	return prefixes
}

// randomAddrs returns n different addresses in 16.0.0.0/4, none of which is
// used for anything else here.
func randomAddrs(n int) []netip.Addr {
	addrs := make([]netip.Addr, 0, n)
	for i := range distinct(newRand(), n, 1<<28) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 1<<28|i)
		addrs = append(addrs, netip.AddrFrom4(a))
	}
	return addrs
}

// randomAddrs6 returns n addresses of as many /48s in 2b00::/8.
func randomAddrs6(n int) []netip.Addr {
	addrs := make([]netip.Addr, 0, n)
	for i := range distinct(newRand(), n, 1<<31) {
		a := [16]byte{0: 0x2b, 7: 0x17, 15: 0x05}
		binary.BigEndian.PutUint32(a[1:], i)
		addrs = append(addrs, netip.AddrFrom16(a))
	}
	return addrs
}

// distinct yields n different numbers below limit, in random order.
func distinct(r *rand.Rand, n int, limit uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		seen := make(map[uint32]struct{}, n)
		for len(seen) < n {
			i := r.Uint32N(limit)
			if _, again := seen[i]; again {
				continue
			}
			seen[i] = struct{}{}
			if !yield(i) {
				return
			}
		}
	}
}

// banTime is the timeout of all bans: not the default of the set, so that each
// brings its own, as bans by hand do.
const banTime = 100 * time.Hour

func element(a netip.Addr) nftset.Element {
	return nftset.Element{Interval: nftset.Single(key(a)).Interval, Timeout: banTime}
}

// key is what an address is banned by: of IPv6 the address of its /64.
func key(a netip.Addr) nftset.Key {
	if a.Is6() {
		p, _ := a.Prefix(64)
		a = p.Addr()
	}
	return nftset.AddrKey(a)
}

// elements are bans of addresses.
func elements(addrs []netip.Addr) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for _, a := range addrs {
			if !yield(element(a)) {
				return
			}
		}
	}
}

// elementsText is the same for nft.
func elementsText(addrs []netip.Addr) string {
	var b strings.Builder
	b.WriteString("add element inet portmon ban4 {\n")
	for _, a := range addrs {
		fmt.Fprintf(&b, "%s timeout %dh,\n", a, int(banTime.Hours()))
	}
	b.WriteString("}\n")
	return b.String()
}
