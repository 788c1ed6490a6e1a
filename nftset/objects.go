package nftset

import (
	"iter"
	"slices"
)

// Dump reads objects for which this package has no type: tables, chains, rules, counters. typ is one of unix.NFT_MSG_GET*, attrs
// are the encoded attributes that narrow the request; the kernel may ignore them and send more. Each value is the attributes of
// one object. Errors are plain errnos; absence is often just an empty sequence. As with [Conn.Elements], the connection is not free
// inside of the loop.
func (c *Conn) Dump(typ uint16, family Family, attrs []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		stopped := false
		err := c.dump(typ, family, attrs, func(m message) error {
			stopped = stopped || !yield(slices.Clone(m.attrs()), nil)
			return nil
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}
