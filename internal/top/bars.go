package top

import (
	"math"
	"strings"
)

// The characters of bars that are filled by eighths, and those for ASCII.
var (
	blocks = []rune(" ▁▂▃▄▅▆▇█")
	dots   = []rune(" .:-=+*#@")
)

// graph draws samples as bars, the newest at the right, the highest over all
// rows. It returns the rows from the top.
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
				eighths = max(1, int(math.Round(s/highest*float64(8*rows)))) // anything but 0 is visible
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
	switch {
	case part <= 0 || n > 0:
		return strings.Repeat(full, n) + strings.Repeat(empty, columns-n)
	case unicode: // anything but 0 is visible, and is not much
		return "▏" + strings.Repeat(empty, columns-1)
	}
	return ":" + strings.Repeat(empty, columns-1)
}
