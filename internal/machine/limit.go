package machine

import (
	"errors"
	"math"
	"math/bits"
	"time"

	"github.com/google/nftables/expr"
)

// limit is a token bucket, like that of nft_limit_eval in
// net/netfilter/nft_limit.c. Tokens are nanoseconds: time adds them, and a
// packet costs some.
type limit struct {
	cost, most int64
	over       bool // the rule goes on with what exceeds the limit
}

// bucket is the tokens of a limit, as the time at which it would have been
// empty if none had been taken since.
type bucket int64

func newLimit(e *expr.Limit) (*limit, error) {
	if e.Type != expr.LimitTypePkts || e.Rate == 0 || e.Burst == 0 {
		return nil, errors.New("a limit that is not of packets, or without a rate or a burst, is not known")
	}
	cost := uint64(e.Unit) * uint64(time.Second) / e.Rate
	high, most := bits.Mul64(cost, uint64(e.Burst))
	if high > 0 || most > math.MaxInt64/2 {
		return nil, errors.New("a limit of so many tokens is not known")
	}
	return &limit{int64(cost), int64(most), e.Over}, nil
}

func (l *limit) full(now int64) bucket { return bucket(now - l.most) }

// take takes what a packet costs, and reports whether the rule goes on.
func (l *limit) take(b *bucket, now int64) bool {
	tokens := min(now-int64(*b), l.most)
	if tokens < l.cost {
		*b = bucket(now - tokens)
		return l.over
	}
	*b = bucket(now - tokens + l.cost)
	return !l.over
}

// limits are the limits of one rule in several machines. Those that are alike
// and were asked of the same packets have the same tokens, in one group.
type limits struct{ groups []limitGroup }

type limitGroup struct {
	lanes  lanes
	limit  limit
	tokens bucket
}

func (ls *limits) add(lane int, l *limit) {
	for i := range ls.groups {
		if g := &ls.groups[i]; g.limit == *l {
			g.lanes |= 1 << lane
			return
		}
	}
	ls.groups = append(ls.groups, limitGroup{1 << lane, *l, l.full(0)}) // it is full at any later time, too
}

// take takes what a packet costs in some lanes, and returns those in which the
// rule goes on.
func (ls *limits) take(of lanes, now int64) (on lanes) {
	for i := range ls.groups {
		g := &ls.groups[i]
		asked := g.lanes & of
		if asked == 0 {
			continue
		}
		if rest := g.lanes &^ asked; rest != 0 {
			g.lanes = asked
			ls.groups = append(ls.groups, limitGroup{rest, g.limit, g.tokens})
			g = &ls.groups[i]
		}
		if g.limit.take(&g.tokens, now) {
			on |= asked
		}
	}
	return on
}
