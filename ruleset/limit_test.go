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
		want        rate
	}{
		{57344, 8192, 10 * time.Minute, rate{81, expr.LimitTimeSecond, 8192}},
		{131072, 65536, 30 * day, rate{91, expr.LimitTimeHour, 65536}},
		{262144, 65536, day, rate{136, expr.LimitTimeMinute, 65536}},
		{16, 2, 10 * time.Minute, rate{84, expr.LimitTimeHour, 2}},
		{0, 0, 10 * time.Minute, rate{144, expr.LimitTimeDay, 1}},
		{1, 1, MaxBanTime, rate{1, expr.LimitTimeWeek, 1}},
		{MaxSize, MaxSize / 8, MinBanTime, rate{146800640, expr.LimitTimeSecond, MaxSize / 8}},
	} {
		if got := rateToFill(tt.size, tt.lifetime, tt.burst); got != tt.want {
			t.Errorf("%d in %v, %d at once: got %+v, want %+v", tt.size, tt.lifetime, tt.burst, got, tt.want)
		}
	}
}

// TestRateFillsNoSet adds up what a rate lets through while an element lives.
func TestRateFillsNoSet(t *testing.T) {
	for size := uint32(8); size <= MaxSize; size = size*3/2 + 1 {
		for _, lifetime := range []time.Duration{MinBanTime, time.Second, 10 * time.Minute, 30 * 24 * time.Hour, MaxBanTime} {
			r := rateToFill(size, lifetime, size/8)
			in := float64(r.burst) + float64(r.n)*lifetime.Seconds()/float64(r.unit)
			slow := r.n == 1 && r.unit == expr.LimitTimeWeek // the slowest that there is
			if in > float64(size) && !slow {
				t.Errorf("%+v lets %.1f into a set of %d", r, in, size)
			}
			if r.n < 1 || r.burst < 1 {
				t.Errorf("%+v for a set of %d and %v: nft knows no such limit", r, size, lifetime)
			}
		}
	}
}
