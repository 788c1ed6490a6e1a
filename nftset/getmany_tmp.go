package nftset

import (
	"errors"
	"iter"
	"os"
)

func (c *Conn) GetMany(set *Set, keys iter.Seq[Key]) iter.Seq2[Element, error] {
	return func(yield func(Element, error) bool) {
		for k := range keys {
			el, err := c.Get(set, k)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if !yield(el, err) || err != nil {
				return
			}
		}
	}
}
