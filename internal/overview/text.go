package overview

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/text/cell"
)

// Columns is how wide the page is.
const Columns = 80

// Style is how a part of the page is coloured.
type Style int

// The styles.
const (
	Plain Style = iota
	Heading
	Drops
	NewOnes
	Returning
	Warning
)

// Terminal says what a terminal can show.
type Terminal struct {
	Unicode bool                       // blocks, rather than characters of ASCII
	Paint   func(string, Style) string // nil: no colours
}

// page is the page for a terminal.
type page struct {
	Terminal
	plain bool // there are no colours
	strings.Builder
}

// WriteText writes the report as a page of [Columns].
func (r *Report) WriteText(w io.Writer, t Terminal) error {
	plain := t.Paint == nil
	if plain {
		t.Paint = func(s string, _ Style) string { return s }
	}
	p := &page{Terminal: t, plain: plain}
	p.both("portmon report"+prefixed(" for ", r.Host), fmt.Sprintf("%s, %s", text.Plural(len(r.Days), "day"), r.period()), Heading)
	p.line(strings.Repeat(p.glyph("─", "-"), Columns))
	for _, h := range r.headline() {
		p.line(fmt.Sprintf("%12s  %s", number(h.Count), h.What))
	}
	p.line("")
	p.line(r.now())
	if !r.Since.IsZero() {
		p.line("counted by the hour, since " + r.Since.In(r.zone).Format("2 Jan 2006 15:04"))
	}
	for _, line := range r.Unbanned() {
		p.line(p.Paint(line, Warning))
	}
	title := "Packets dropped %s"
	if r.Total.Observed {
		title += ", and those that " + p.Paint("would be", Returning) + p.legend(true)
	}
	p.chart(title, r.Days, func(d *Day) [2]uint64 { return [2]uint64{d.Dropped, d.WouldDrop} }, [2]Style{Drops, Returning}, 6)
	p.chart("Offences %s, by "+p.Paint("new", NewOnes)+p.legend(false)+" and "+p.Paint("returning", Returning)+p.legend(true)+" offenders", r.Days, func(d *Day) [2]uint64 {
		return [2]uint64{d.New, d.Returning()}
	}, [2]Style{NewOnes, Returning}, 4)
	p.bars("Ports", r.Ports, Drops)
	p.twoBars("Causes of bans", r.Causes, "Tiers of the ladder", r.Steps)
	if len(r.Countries) > 0 {
		p.bars("Countries", r.Countries, NewOnes)
	}
	if len(r.Networks) > 0 {
		p.bars("Networks", r.Networks, NewOnes)
	}
	p.sources("Sources that have offended most", r.Offenders, r, func(s *Source) string { return s.Where() })
	p.sources("Banned by mistake?", r.Suspects, r, func(s *Source) string { return s.Reason })
	if r.Banned > 0 {
		p.heading("When bans end")
		var parts []string
		for _, e := range r.Expiring {
			if e.Count > 0 {
				parts = append(parts, number(e.Count)+" "+e.Name)
			}
		}
		p.line("  " + strings.Join(parts, ", "))
		p.sources("", r.Next, r, func(s *Source) string { return s.Where() })
	}
	_, err := io.WriteString(w, p.String())
	return err
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + text.Printable(s)
}

func (p *page) line(s string) { p.WriteString(strings.TrimRight(s, " ") + "\n") }

// cut makes foreign text fit to be shown, in at most limit cells.
func (p *page) cut(s string, limit int) string {
	s = cell.Fit(text.Printable(s), limit, "…")
	if p.Unicode {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '…':
			return '~'
		case r > '~':
			return '?'
		}
		return r
	}, s)
}

func (p *page) heading(s string) { p.line("\n" + p.Paint(s, Heading)) }

func (p *page) glyph(unicode, ascii string) string {
	if p.Unicode {
		return unicode
	}
	return ascii
}

// both writes text at the left and at the right of a line, or on two lines.
func (p *page) both(left, right string, as Style) {
	left = p.cut(left, Columns-1)
	gap := Columns - cell.Width(left) - len(right)
	if gap < 1 {
		p.line(p.Paint(left, as) + "\n" + right)
		return
	}
	p.line(p.Paint(left, as) + strings.Repeat(" ", gap) + right)
}

var eighths = []string{"", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}

// chart writes a column for each day, or for a few if there are many. Of its
// two values, the second stands on the first. The title says with %s what a
// column is.
func (p *page) chart(title string, days []Day, of func(*Day) [2]uint64, styles [2]Style, height int) {
	const label, room = 6, Columns - 8
	sums, per := grouped(days, room)
	var columns [][2]uint64
	for i := range sums {
		columns = append(columns, of(&sums[i]))
	}
	highest := uint64(1)
	for _, c := range columns {
		highest = max(highest, c[0]+c[1])
	}
	unit := "a day"
	if per > 1 {
		unit = fmt.Sprintf("in %d days", per)
	}
	p.line("\n" + p.Paint(fmt.Sprintf(title, unit), Heading))
	width := min(max(room/len(columns), 1), 6)
	for row := height - 1; row >= 0; row-- {
		line := fmt.Sprintf("%*s ", label, "")
		if row == height-1 {
			line = fmt.Sprintf("%*s ", label, short(highest))
		}
		if row == 0 {
			line = fmt.Sprintf("%*s ", label, "0")
		}
		line += p.glyph("▕", "|")
		for _, c := range columns {
			cell, as := p.cell(c, highest, row, height), styles[0]
			if level(c[0], highest, height) <= row*8 {
				as = styles[1]
			}
			if as == styles[1] && p.plain && cell != " " {
				cell = p.second()
			}
			bar := strings.Repeat(cell, max(width-1, 1))
			line += p.Paint(bar, as) + strings.Repeat(" ", width-max(width-1, 1))
		}
		p.line(line)
	}
	first, last := days[0].at.Format("2 Jan"), days[len(days)-1].at.Format("2 Jan")
	if gap := width*len(columns) - len(first) - len(last); gap > 0 && len(days) > 1 {
		first += strings.Repeat(" ", gap) + last
	}
	p.line(strings.Repeat(" ", label+2) + first)
}

// second is what the second value of a column is drawn with where there are no
// colours.
func (p *page) second() string { return p.glyph("░", "o") }

// legend says in a title how a value is drawn, where there are no colours.
func (p *page) legend(second bool) string {
	switch {
	case !p.plain:
		return ""
	case second:
		return " (" + p.second() + ")"
	}
	return " (" + p.glyph("█", "#") + ")"
}

// level returns the height of a value in eighths of a line, at least 1 unless
// the value is 0.
func level(n, highest uint64, height int) int {
	l := int(float64(n) / float64(highest) * float64(height) * 8)
	if n > 0 {
		l = max(l, 1)
	}
	return l
}

// cell returns the part of a column that is on one line of a chart.
func (p *page) cell(c [2]uint64, highest uint64, row, height int) string {
	full := min(max(level(c[0]+c[1], highest, height)-row*8, 0), 8)
	switch {
	case full == 0:
		return " "
	case p.Unicode:
		return eighths[full]
	case full < 4:
		return "."
	}
	return "#"
}

// bar returns a horizontal bar, at most columns wide.
func (p *page) bar(n, highest uint64, columns int) string {
	length := int(float64(n) / float64(max(highest, 1)) * float64(columns) * 8)
	if n > 0 {
		length = max(length, 4)
	}
	if !p.Unicode {
		return strings.Repeat("#", (length+4)/8)
	}
	parts := []string{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"}
	return strings.Repeat("█", length/8) + parts[length%8]
}

// highestOf returns the largest count, except that of the rest.
func highestOf(items []Item) (n uint64) {
	for _, it := range items {
		if it.Name != stats.Other || len(items) == 1 {
			n = max(n, it.Count)
		}
	}
	return n
}

// bars writes counts by name.
func (p *page) bars(title string, items []Item, as Style) {
	p.heading(title)
	if len(items) == 0 {
		p.line("  none yet")
	}
	for _, it := range items {
		p.line(p.item(it, highestOf(items), 11, 28, 26, as))
	}
}

// item returns a line about a count.
func (p *page) item(it Item, highest uint64, name, what, bar int, as Style) string {
	drawn := ""
	if it.Name != stats.Other {
		drawn = p.bar(it.Count, highest, bar)
	}
	return "  " + cell.Pad(p.cut(it.Name, name), name) + cell.Pad(p.cut(it.What, max(what-2, 0)), what) +
		fmt.Sprintf("%8s ", number(it.Count)) + p.Paint(drawn, as) + strings.Repeat(" ", max(0, bar-cell.Width(drawn)))
}

// twoBars writes counts by two kinds of names, side by side.
func (p *page) twoBars(left string, lefts []Item, right string, rights []Item) {
	if len(lefts)+len(rights) == 0 {
		return
	}
	p.line("\n" + p.Paint(left, Heading) + strings.Repeat(" ", 42-len(left)) + p.Paint(right, Heading))
	for i := range max(len(lefts), len(rights)) {
		line := strings.Repeat(" ", 40)
		if i < len(lefts) {
			line = p.item(lefts[i], highestOf(lefts), 10, 0, 17, Drops) + "  "
		}
		if i < len(rights) {
			line += p.item(rights[i], highestOf(rights), 5, 0, 20, Returning)
		}
		p.line(line)
	}
}

// sources writes a table of sources.
func (p *page) sources(title string, sources []Source, r *Report, last func(*Source) string) {
	if len(sources) == 0 {
		return
	}
	if title != "" {
		p.heading(title)
	}
	p.line(fmt.Sprintf("  %-24s%8s%6s  %-10s%-9s%s", "source", "offences", "tier", "port", "ban left", ""))
	for i := range sources {
		s := &sources[i]
		tier := "-"
		if s.Step > 0 {
			tier = fmt.Sprint(s.Step)
		}
		source := s.Source
		if len(source) > 23 { // an IPv6 address that is banned by itself
			p.line("  " + source)
			source = ""
		}
		p.line(fmt.Sprintf("  %-24s%8d%6s  %-10s%-9s%s", source, s.Offences, tier, dash(s.Port), r.left(s), p.cut(last(s), 18)))
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// left says how much of a ban is left.
func (r *Report) left(s *Source) string {
	switch {
	case s.Forever:
		return "for ever"
	case s.Until.IsZero():
		return "-"
	}
	return text.ShortDuration(max(s.Until.Sub(r.Made), time.Second))
}
