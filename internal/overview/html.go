package overview

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/portmon/portmon/internal/text"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"number": number, "short": short, "dash": dash,
	"percent": func(n, of uint64) int { return int(min(math.Round(float64(n)/float64(max(of, 1))*100), 100)) },
}).Parse(pageText))

// WriteHTML writes the report as a page that loads nothing and runs nothing.
// Names may come from anywhere: characters in them that control a terminal or the
// direction of writing are replaced.
func (r *Report) WriteHTML(w io.Writer) error {
	var page strings.Builder
	err := pageTemplate.Execute(&page, &htmlPage{
		Report: r, Period: r.period(), Now: r.now(), Headline: r.headline(),
		Drops:   r.barChart(170, false, func(d *Day) [2]uint64 { return [2]uint64{d.Dropped, d.WouldDrop} }),
		Sources: r.barChart(120, true, func(d *Day) [2]uint64 { return [2]uint64{d.New, d.Returning()} }),
		Week:    r.weekChart(), Map: r.worldMap(),
	})
	if err == nil {
		_, err = io.WriteString(w, strings.Map(func(r rune) rune {
			if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				return unicode.ReplacementChar
			}
			return r
		}, page.String()))
	}
	return err
}

// htmlPage is what the template shows.
type htmlPage struct {
	*Report
	Period, Now    string
	Headline       []Item
	Drops, Sources barChart
	Week           []weekDay
	Map            []shade
}

// Clock writes a time for people.
func (p *htmlPage) Clock(t time.Time) string { return t.In(p.zone).Format("2 Jan 2006 15:04") }

// Left says how much of a ban is left.
func (p *htmlPage) Left(s Source) string { return p.left(&s) }

// Located reports whether the place of any offender is known.
func (p *htmlPage) Located() bool {
	return slices.ContainsFunc(p.Offenders, func(s Source) bool { return s.Where() != "" })
}

// Zone returns the time zone of the page.
func (p *htmlPage) Zone() string {
	name, _ := p.Made.In(p.zone).Zone()
	return name
}

// itemList is what was counted by name.
type itemList struct {
	Items   []Item
	Highest uint64
}

// List returns items with the count that makes the longest bar.
func (p *htmlPage) List(items []Item) itemList { return itemList{items, highestOf(items)} }

// WeekX, WeekY and WeekText return the positions of an hour, a day and the name
// of that day in the chart of the week.
func (p *htmlPage) WeekX(hour int) int   { return 44 + hour*35 + hour*2/3 }
func (p *htmlPage) WeekY(day int) int    { return 2 + day*24 }
func (p *htmlPage) WeekText(day int) int { return 17 + day*24 }

// Every returns the hours that are labelled.
func (p *htmlPage) Every() []int { return []int{0, 3, 6, 9, 12, 15, 18, 21} }

// barChart is a chart with a column for each day, or for a few.
type barChart struct {
	Unit          string
	Width, Height int
	Lines         []chartLine
	Columns       []chartColumn
	Labels        []chartLabel
}

type chartLine struct{ Y, Label string }

type chartLabel struct{ X, Text string }

// chartColumn is a column. If it has two values, the second stands on the
// first.
type chartColumn struct {
	X, Width      string
	Y, Height     string
	Y2, Height2   string
	Title         string
	First, Second bool
	Two           bool // the columns of the chart have two values
}

// px writes a length.
func px(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

func (r *Report) barChart(height int, two bool, of func(*Day) [2]uint64) barChart {
	const width, left, right, top, bottom = 900, 44, 12, 8, 22
	c := barChart{Unit: "a day", Width: width, Height: height + top + bottom}
	days, per := grouped(r.Days, 120)
	highest := uint64(1)
	for i := range days {
		v := of(&days[i])
		highest = max(highest, v[0]+v[1])
	}
	step := niceStep(highest)
	scale := float64(height) / float64((highest+step-1)/step*step)
	for n := uint64(0); n < highest+step; n += step {
		c.Lines = append(c.Lines, chartLine{px(top + float64(height) - float64(n)*scale), short(n)})
	}
	each := float64(width-left-right) / float64(len(days))
	every := (len(days) + 9) / 10
	if per > 1 {
		c.Unit = fmt.Sprintf("in %d days each", per)
	}
	for i := range days {
		d := &days[i]
		v, x := of(d), left+each*float64(i)
		first, second := float64(v[0])*scale, float64(v[1])*scale
		base := top + float64(height)
		c.Columns = append(c.Columns, chartColumn{
			X: px(x + each*0.12), Width: px(each * 0.76), Y: px(base - first), Height: px(first),
			Y2: px(base - first - second), Height2: px(second), First: v[0] > 0, Second: v[1] > 0, Two: two,
			Title: d.title(),
		})
		if (len(days)-1-i)%every == 0 {
			c.Labels = append(c.Labels, chartLabel{px(x + each/2), d.at.Format("2 Jan")})
		}
	}
	return c
}

// title says what happened on a day, or on a few.
func (d *Day) title() string {
	const layout = "Mon 2 Jan"
	days, would := d.at.Format(layout), ""
	if d.end.After(d.at) {
		days += " to " + d.end.Format(layout)
	}
	if d.WouldDrop > 0 {
		would = ", " + number(d.WouldDrop) + " would be"
	}
	return fmt.Sprintf("%s: %s dropped%s, %s new, %s returning", days, number(d.Dropped), would, number(d.New), number(d.Returning()))
}

// niceStep returns a round number, at most five of which make n.
func niceStep(n uint64) uint64 {
	step := uint64(1)
	for unit := uint64(1); step*5 < n; unit *= 10 {
		for _, f := range []uint64{1, 2, 5} {
			if step = f * unit; step*5 >= n {
				break
			}
		}
		if unit > math.MaxUint64/100 {
			break
		}
	}
	return step
}

// weekDay is a row of the chart of the week.
type weekDay struct {
	Name  string
	Hours [24]shade
}

// shade is an area that is darker the more was counted.
type shade struct {
	land
	Level int // 0 to 5
	Title string
	Dot   bool // the country is too small to be seen otherwise
}

// shadeOf returns how dark an area is, so that small counts differ too.
func shadeOf(n, highest uint64) int {
	if n == 0 {
		return 0
	}
	return min(1+int(math.Sqrt(float64(n)/float64(highest))*5), 5)
}

func (r *Report) weekChart() []weekDay {
	highest := uint64(0)
	for _, day := range r.week {
		for _, n := range day {
			highest = max(highest, n)
		}
	}
	if highest == 0 {
		return nil
	}
	var days []weekDay
	for i, day := range r.week {
		d := weekDay{Name: time.Weekday((i + 1) % 7).String()[:3]}
		for h, n := range day {
			d.Hours[h] = shade{Level: shadeOf(n, highest), Title: fmt.Sprintf("%s, %02d:00 to %02d:59: %s", d.Name, h, h, number(n))}
		}
		days = append(days, d)
	}
	return days
}

// worldMap returns the countries in the order in which they are drawn; none if
// no offender's country is known.
func (r *Report) worldMap() (shades []shade) {
	highest := uint64(0)
	for code, n := range r.countries {
		if country(code) != "" {
			highest = max(highest, n)
		}
	}
	if highest == 0 {
		return nil
	}
	var dots []shade
	for _, l := range world() {
		n := r.countries[l.Code]
		s := shade{land: l, Level: shadeOf(n, highest)}
		if n > 0 {
			s.Title = fmt.Sprintf("%s: %s", l.Name, text.Plural(int(n), "offence"))
		}
		// A small country has a short outline.
		if s.Dot = len(l.Path) < 40; s.Dot && n > 0 {
			dots = append(dots, s)
		}
		if l.Path != "" {
			s.Dot = false
			shades = append(shades, s)
		}
	}
	return append(shades, dots...)
}
