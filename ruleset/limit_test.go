package ruleset

import (
	"testing"
	"time"

	"github.com/google/nftables/expr"
)

// TestRateToFill has the rates by which first offences come in.
func TestRateToFill(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		size, burst uint32
		lifetime    time.Duration
		want        string
	}{
		{57344, 8192, 10 * time.Minute, "81/second burst 8192 packets"},
		{131072, 65536, 30 * day, "91/hour burst 65536 packets"},
		{262144, 65536, day, "136/minute burst 65536 packets"},
		{16, 2, 10 * time.Minute, "84/hour burst 2 packets"},
		{0, 0, 10 * time.Minute, "144/day burst 1 packets"},
		{1, 1, MaxBanTime, "1/week burst 1 packets"},
		{MaxSize, MaxSize / 8, MinBanTime, "146800640/second burst 2097152 packets"},
	} {
		if got := rateToFill(tt.size, tt.lifetime, tt.burst); got != tt.want {
			t.Errorf("%d in %v, %d at once: got %s, want %s", tt.size, tt.lifetime, tt.burst, got, tt.want)
		}
	}
}

// TestRateFillsNoSet adds up what a rate lets through while an element lives.
func TestRateFillsNoSet(t *testing.T) {
	for size := uint32(8); size <= MaxSize; size = size*3/2 + 1 {
		for _, lifetime := range []time.Duration{MinBanTime, time.Second, 10 * time.Minute, 30 * 24 * time.Hour, MaxBanTime} {
			r := rule(noFaster(rateToFill(size, lifetime, size/8))).Exprs[0].(*expr.Limit)
			in := float64(r.Burst) + float64(r.Rate)*lifetime.Seconds()/float64(r.Unit)
			slow := r.Rate == 1 && r.Unit == expr.LimitTimeWeek // the slowest that there is
			if in > float64(size) && !slow {
				t.Errorf("%+v lets %.1f into a set of %d", r, in, size)
			}
			if r.Rate < 1 || r.Burst < 1 {
				t.Errorf("%+v for a set of %d and %v: nft knows no such limit", r, size, lifetime)
			}
		}
	}
}
