package main

import (
	"math"
	"slices"
)

// median returns the middle of the values, which must not be none.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the value below which a share q of the values lies.
func quantile(values []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(values))
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// spread returns how far the median of as many other values would be from this
// one, in 19 of 20 cases (McGill, Tukey and Larsen, Variations of box plots,
// 1978).
func spread(values []float64) float64 {
	return 1.57 * (quantile(values, 0.75) - quantile(values, 0.25)) / math.Sqrt(float64(len(values)))
}

// differences returns a - b, value by value: what was measured in the same
// round is compared, so that what disturbed both cancels out.
func differences(a, b []float64) []float64 {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return d
}
