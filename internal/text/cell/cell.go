// Package cell measures text as a terminal shows it: characters of East Asian
// scripts and emoji take two cells, and those that combine with others none.
// Escape sequences of styles take none either.
package cell

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Width returns how many cells text takes.
func Width(s string) int { return ansi.StringWidth(s) }

// Fit returns text, or what of it fits that many cells together with a tail.
func Fit(s string, width int, tail string) string { return ansi.Truncate(s, max(0, width), tail) }

// Pad appends spaces until text takes that many cells.
func Pad(s string, width int) string { return s + strings.Repeat(" ", max(0, width-Width(s))) }
