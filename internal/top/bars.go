package top

import (
	"math"
	"strings"
)

// Characters of a bar that is filled by eighths, and of one in ASCII.
var (
	blocks = []rune(" ▁▂▃▄▅▆▇█")
	dots   = []rune(" .:-=+*#@")
)

// graph draws samples, the newest at the right, as bars whose highest fills all
// rows. The top row comes first.
func graph(samples []float64, columns, rows int, unicode bool) []string {
	chars := dots
	if unicode {
		chars = blocks
	}
	samples = samples[max(0, len(samples)-columns):]
	highest := 0.0
	for _, s := range samples {
		highest = max(highest, s)
	}
	lines := make([]string, rows)
	for row := range rows {
		var b strings.Builder
		b.WriteString(strings.Repeat(" ", columns-len(samples)))
		for _, s := range samples {
			eighths := 0
			if s > 0 {
				eighths = max(1, int(math.Round(s/highest*float64(8*rows)))) // what is not nothing shows
			}
			b.WriteRune(chars[max(0, min(8, eighths-8*(rows-1-row)))])
		}
		lines[row] = b.String()
	}
	return lines
}

// meter draws how full something is.
func meter(part float64, columns int, unicode bool) string {
	full, empty := "#", "."
	if unicode {
		full, empty = "█", "░"
	}
	n := max(0, min(columns, int(math.Round(part*float64(columns)))))
	if part > 0 && n == 0 {
		n = 1
	}
	return strings.Repeat(full, n) + strings.Repeat(empty, columns-n)
}
