package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/text/cell"
)

// The styles are parameters of an ANSI escape sequence. Reverse and bold are
// not colours, and are used even without them.
const (
	bold    = "1"
	reverse = "7"
	red     = "31"
	green   = "32"
	yellow  = "33"
	cyan    = "36"
)

// The smallest terminal that is drawn on.
const minWidth, minHeight = 60, 14

// View implements [tea.Model].
func (m *Model) View() tea.View {
	v := tea.NewView(m.draw())
	v.AltScreen = true
	return v
}

// draw returns the screen, each line no wider than the terminal.
func (m *Model) draw() string {
	if m.width < minWidth || m.height < minHeight {
		return fit(fmt.Sprintf("portmon top needs %dx%d, this is %dx%d; q quits", minWidth, minHeight, m.width, m.height), m.width)
	}
	lines := append(m.drawHead(), m.drawList()...)
	return strings.Join(append(lines, m.drawFoot()...), "\n")
}

// rows returns how many lines of a list fit.
func (m *Model) rows() int { return max(1, m.height-len(m.drawHead())-1-2) }

// paint returns text in a style, if the options allow that.
func (m *Model) paint(s, style string) string {
	if s == "" || style == "" || !m.opts.Colour && style != reverse && style != bold {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[m"
}

// drawHead draws what is above the list.
func (m *Model) drawHead() []string {
	state := m.paint(m.now.State, green)
	if !m.now.Good {
		state = m.paint(m.now.State, yellow)
	}
	from := "events from " + string(m.source)
	if m.source == "" {
		from = "polling"
	}
	right := text.Join(", ", from, m.opts.Host, m.clock())
	room := m.width - len("portmon: ") - cell.Width(m.now.State) - 1
	head := []string{fit(m.paint("portmon", bold)+": "+state+" "+alignRight(right, room), m.width)}

	last, most := 0.0, 0.0
	for _, s := range m.samples[max(0, len(m.samples)-m.width):] {
		last, most = s, max(most, s)
	}
	dropped := "dropped"
	if m.now.Observing {
		dropped = "would drop"
	}
	head = append(head, fit(fmt.Sprintf("%s %s/s, at most %s/s in the last %s; %s in all",
		dropped, rate(last), rate(most), text.Plural(min(len(m.samples), m.width), "second"), text.Plural(int(m.now.Dropped), "packet")), m.width))
	rows := 2
	if m.height >= 30 {
		rows = 4
	}
	for _, row := range graph(m.samples, m.width, rows, m.opts.Unicode) {
		head = append(head, m.paint(row, cyan))
	}
	head = append(head, m.drawSets()...)
	return append(head, m.drawTabs())
}

// drawSets draws how full the sets are: those of bans, and the fullest others.
func (m *Model) drawSets() []string {
	sets := slices.DeleteFunc(slices.Clone(m.now.Sets), func(s Set) bool {
		return s.Count == 0 && !strings.HasPrefix(s.Name, "ban") || strings.HasPrefix(s.Name, "own")
	})
	part := func(s Set) float64 {
		if s.Size == 0 {
			return 0
		}
		return float64(s.Count) / float64(s.Size)
	}
	isBans := func(s Set) int {
		if s.Name == "ban4" || s.Name == "ban6" {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(sets, func(a, b Set) int {
		return cmp.Or(cmp.Compare(isBans(a), isBans(b)), cmp.Compare(part(b), part(a)))
	})
	perLine, lines := m.width/40, []string(nil)
	for row := range 3 {
		var cells []string
		for _, s := range sets[min(row*perLine, len(sets)):min((row+1)*perLine, len(sets))] {
			percent := fmt.Sprintf("%3.0f%%", 100*part(s))
			cell := fmt.Sprintf("%-9s", fit(s.Name, 9)) + meter(part(s), 10, m.opts.Unicode) + " " + percent + " " + fmt.Sprintf("%-13d", s.Count)
			if s.Size > 0 && s.Count >= s.Size {
				cell = m.paint(cell, red)
			}
			cells = append(cells, cell)
		}
		lines = append(lines, strings.Join(cells, "  "))
	}
	return lines
}

func (m *Model) drawTabs() string {
	offences, bans := "events", fmt.Sprintf("longest bans (%d)", m.bans.Total)
	if m.reading {
		bans = "longest bans"
	} else if age := m.now.Time.Sub(m.bans.Time); age >= stale && !m.bans.Time.IsZero() {
		bans = fmt.Sprintf("longest bans (%d, %s ago)", m.bans.Total, text.ShortDuration(age))
	}
	if m.now.Observing {
		bans = strings.Replace(bans, "bans", "would-be bans", 1)
	}
	if m.bansShown {
		bans = m.paint("["+bans+"]", bold)
	} else {
		offences = m.paint("["+offences+"]", bold)
	}
	line := offences + "  " + bans
	if m.paused && !m.bansShown {
		line += "  " + m.paint("paused", yellow)
	}
	if m.filter != "" || m.typing {
		line += "  filter: " + text.Shorten(m.filter, 30)
		if m.typing {
			line += "_"
		}
	}
	return fit(line, m.width)
}

// stale is the age of the list of bans from which on it is said.
const stale = 15 * time.Second

// columns are the headings and widths of a list. The last column takes the
// rest.
type columns []struct {
	heading string
	width   int
}

var (
	eventColumns = columns{{"TIME", 8}, {"ADDRESS", 25}, {"EVENT", 9}, {"CAUSE", 6}, {"PORT", 9}, {"TIER", 4}, {"NETWORK", 0}}
	banColumns   = columns{{"LEFT", 8}, {"ADDRESS", 25}, {"AGE", 8}, {"CAUSE", 6}, {"TIER", 4}, {"COMMENT", 0}}
)

// drawList draws the list, or the output of a command.
func (m *Model) drawList() []string {
	rows := m.rows()
	if m.result != nil {
		return m.drawResult(rows + 1)
	}
	shape := eventColumns
	switch {
	case m.bansShown:
		shape = banColumns
	case m.now.Observing:
		shape = slices.Clone(eventColumns)
		shape[2].width = len("would be escalated")
	}
	var headings []string
	for _, c := range shape {
		headings = append(headings, c.heading)
	}
	out := []string{m.paint(shape.draw(headings, m.width), bold)}
	l := m.list()
	selected := m.selected(l)
	first := max(0, min(selected-rows/2, len(l.at)-rows))
	for i := first; i < min(first+rows, len(l.at)); i++ {
		line := l.line(i)
		if i == selected {
			line.style = reverse
		}
		out = append(out, m.paint(shape.draw(line.cells, m.width), line.style))
	}
	if len(l.at) == 0 {
		out = append(out, "  "+m.nothing())
	}
	for len(out) < rows+1 {
		out = append(out, "")
	}
	return out
}

// nothing returns why a list is empty.
func (m *Model) nothing() string {
	switch {
	case m.filter != "":
		return "nothing matches the filter"
	case m.bansShown && m.reading:
		return "reading the bans ..."
	case m.bansShown && m.now.Observing:
		return "nobody would be banned"
	case m.bansShown:
		return "nobody is banned"
	}
	return "no events yet"
}

func (m *Model) drawResult(rows int) []string {
	var all []string
	for s := range strings.Lines(m.result.Text) {
		all = append(all, wrap(text.Printable(strings.TrimRight(s, "\n")), m.width)...)
	}
	m.scroll = max(0, min(m.scroll, len(all)-rows+1))
	out := []string{m.paint(fit(m.result.Title, m.width), bold)}
	out = append(out, all[m.scroll:min(len(all), m.scroll+rows-1)]...)
	for len(out) < rows {
		out = append(out, "")
	}
	return out
}

// drawFoot draws questions and faults, and the keys.
func (m *Model) drawFoot() []string {
	say, keys := "", "up/down  tab bans  / filter  w why  u unban  b ban  a allow  p pause  q quit"
	if m.bansShown {
		keys = strings.Replace(keys, "tab bans", "tab events", 1)
	}
	if len(keys) > m.width {
		keys = strings.ReplaceAll(strings.Replace(strings.TrimPrefix(keys, "up/down  "), "tab events", "tab back", 1), "  ", " ")
	}
	switch {
	case m.command != "":
		say, keys = m.paint(m.question(), bold), "y yes  any other key: no"
	case m.busy:
		say = "working ..."
	case m.trouble != "":
		say = m.paint(fit(string(m.trouble), m.width), red)
	}
	switch {
	case m.typing:
		keys = "enter keep the filter  esc no filter"
	case m.result != nil:
		keys = "up/down scroll  any other key: back"
	}
	return []string{say, fit(keys, m.width)}
}

// question asks whether to run the command.
func (m *Model) question() string {
	length := map[string]time.Duration{"ban": m.now.BanFor, "allow": m.opts.AllowFor}[m.command]
	if length == 0 {
		return m.command + " " + text.Prefix(m.about) + "?"
	}
	return m.command + " " + text.Prefix(m.about) + " for " + text.Duration(length) + "?"
}

// draw returns a line of a list.
func (shape columns) draw(cells []string, width int) string {
	var b strings.Builder
	for i, c := range cells {
		w := shape[i].width
		if i == len(cells)-1 {
			w = max(0, width-cell.Width(b.String()))
		}
		b.WriteString(cell.Pad(fit(c, w), w))
		if i < len(cells)-1 {
			b.WriteByte(' ')
		}
	}
	return fit(b.String(), width)
}

// fit cuts text that is too wide. Some characters take two columns, styles
// none.
func fit(s string, width int) string { return cell.Fit(s, width, "~") }

// wrap breaks text into lines, between words if possible, and indents all but
// the first.
func wrap(s string, width int) (lines []string) {
	for cell.Width(s) > width {
		line := cell.Fit(s, width, "")
		if at := strings.LastIndexByte(line, ' '); at > len(line)/2 {
			line = line[:at]
		}
		lines = append(lines, line)
		s = "    " + strings.TrimLeft(s[len(line):], " ")
	}
	return append(lines, s)
}

func alignRight(s string, width int) string {
	s = fit(s, width)
	return strings.Repeat(" ", max(0, width-cell.Width(s))) + s
}

// rate writes a number per second in few characters.
func rate(r float64) string {
	switch {
	case r >= 1e6:
		return fmt.Sprintf("%.1fM", r/1e6)
	case r >= 1e4:
		return fmt.Sprintf("%.0fk", r/1e3)
	}
	return fmt.Sprintf("%.0f", r)
}
