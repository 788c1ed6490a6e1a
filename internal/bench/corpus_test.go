package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// distinct calls f with n different numbers below limit, the same in every run
// and process.
func distinct(n int, limit uint32, f func(uint32)) {
	r := rand.New(rand.NewPCG(2026, 1))
	for seen := make(map[uint32]bool, n); len(seen) < n; {
		if i := r.Uint32N(limit); !seen[i] {
			seen[i] = true
			f(i)
		}
	}
}

// addr4 and addr6 return addresses that begin with these bits.
func addr4(bits uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, bits)))
}
func addr6(bits, rest uint64) netip.Addr {
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, bits), rest)))
}

// randomAddrs returns n addresses in 16.0.0.0/4, which nothing else uses here.
func randomAddrs(n int) (addrs []netip.Addr) {
	distinct(n, 1<<28, func(i uint32) { addrs = append(addrs, addr4(1<<28|i)) })
	return addrs
}

// randomAddrs6 returns n addresses of as many /48s in 2b00::/8: subnets in which
// several sources offend are banned as a whole.
func randomAddrs6(n int) (addrs []netip.Addr) {
	distinct(n, 1<<31, func(i uint32) { addrs = append(addrs, addr6(0x2b<<56|uint64(i)<<24|0x17, 5)) })
	return addrs
}

// randomPrefixes returns n disjoint prefixes of each family: /20 to /31 from
// 16.0.0.0 to 79.255.255.255, and /48 to /63 from 2a00:: on.
func randomPrefixes(n int) (v4, v6 []netip.Prefix) {
	distinct(n, 1<<18, func(i uint32) { v4 = append(v4, netip.PrefixFrom(addr4(16<<24+i<<12), 20+int(i%12))) })
	distinct(n, 1<<24, func(i uint32) { v6 = append(v6, netip.PrefixFrom(addr6(0x2a<<56|uint64(i)<<16, 0), 48+int(i%16))) })
	return v4, v6
}

// sourcesOf returns the first n addresses of a prefix, of IPv6 one of each /64.
func sourcesOf(p netip.Prefix, n int) (addrs []netip.Addr) {
	for i := range n {
		if a := p.Addr().AsSlice(); p.Addr().Is4() {
			addrs = append(addrs, addr4(binary.BigEndian.Uint32(a)+uint32(i)+1))
		} else {
			addrs = append(addrs, addr6(binary.BigEndian.Uint64(a)+uint64(i)+1, 1))
		}
	}
	return addrs
}

// banTime is the timeout of all bans: not the default of the set, so that each
// brings its own, as bans by hand do.
const banTime = 100 * time.Hour

// key is what an address is banned by: of IPv6 the address of its /64.
func key(a netip.Addr) nftset.Key {
	if a.Is6() {
		p, _ := a.Prefix(64)
		a = p.Addr()
	}
	return nftset.AddrKey(a)
}

// elementsText is bans for nft.
func elementsText[T fmt.Stringer](set string, list []T) string {
	timeout := fmt.Sprintf(" timeout %dh,", int(banTime.Hours()))
	return fmt.Sprintf("add element inet portmon %s {\n%s}\n", set, lines(list, timeout))
}

func lines[T fmt.Stringer](list []T, end string) string {
	var b strings.Builder
	for _, v := range list {
		fmt.Fprintf(&b, "%s%s\n", v, end)
	}
	return b.String()
}

// All must be able to be banned: no source and no prefix may come twice or be
// whitelisted, and sources of IPv6 may not share a /48.
func TestSourcesCanOffend(t *testing.T) {
	var sources []netip.Prefix
	for _, a := range slices.Concat(randomAddrs(100_000), randomAddrs6(100_000), sourcesOf(crowd, many)) {
		sources = append(sources, netip.PrefixFrom(a, min(a.BitLen(), 48)).Masked())
	}
	v4, v6 := randomPrefixes(50_000)
	for _, list := range [][]netip.Prefix{sources, v4, v6} {
		slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		for i, p := range list {
			if i > 0 && p.Overlaps(list[i-1]) || slices.ContainsFunc(ruleset.Default().Whitelist, p.Overlaps) {
				t.Fatalf("%v overlaps %v, or is whitelisted", p, list[max(i-1, 0)])
			}
		}
	}
}
