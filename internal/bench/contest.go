package main

import (
	"fmt"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// runner is one of those that do the same work beside each other.
type runner struct {
	name string
	host *netnstest.Host
	// prepare, if not nil, puts the host into the state that the work starts
	// from. It is not measured.
	prepare func() error
	// pipeline are the commands that do the work.
	pipeline [][]string
	// work, if not nil, does it instead.
	work func() (usage, error)
}

func (r *runner) run() (usage, error) {
	if r.work != nil {
		return r.work()
	}
	return measure(r.host, r.pipeline...)
}

// pipeline is one that consists of a single command.
func pipeline(command ...string) [][]string { return [][]string{command} }

// newContest returns a table for contests. Runners are compared to those that
// are named, the first ones of each contest.
func newContest(caption string, references ...string) *table {
	t := &table{caption: caption, columns: []string{"work", "by", "time", "from–to", "CPU", "peak memory"}}
	for _, r := range references {
		t.columns = append(t.columns, "time : "+r, "memory : "+r)
	}
	t.references = len(references)
	return t
}

// contest lets the runners work in turn, count times, and adds a row for each:
// its medians, and its ratios to the references.
func (t *table) contest(work string, count int, runners []runner) error {
	costs := make([][]usage, len(runners))
	for round := range count {
		for i := range runners {
			i = (i + round) % len(runners)
			r := runners[i]
			if r.prepare != nil {
				if err := r.prepare(); err != nil {
					return fmt.Errorf("prepare %s: %w", r.name, err)
				}
			}
			u, err := r.run()
			if err != nil {
				return fmt.Errorf("measure %s: %w", r.name, err)
			}
			costs[i] = append(costs[i], u)
		}
	}
	for i, r := range runners {
		time, memory := column(costs[i], usage.seconds), column(costs[i], usage.megabytes)
		row := []string{
			work, r.name,
			seconds(median(time)), seconds(quantile(time, 0)) + " to " + seconds(quantile(time, 1)),
			seconds(median(column(costs[i], usage.cpuSeconds))), megabytes(median(memory)),
		}
		for _, reference := range costs[:t.references] {
			row = append(row, ratio(time, column(reference, usage.seconds)), ratio(memory, column(reference, usage.megabytes)))
		}
		t.row(row...)
		work = ""
	}
	return nil
}

func megabytes(mb float64) string {
	if mb == 0 {
		return "not known"
	}
	return fmt.Sprintf("%.1f MB", mb)
}

func column(costs []usage, value func(usage) float64) []float64 {
	out := make([]float64, len(costs))
	for i, u := range costs {
		out[i] = value(u)
	}
	return out
}

// ratio is the median of the ratios of the rounds, so that what slowed down a
// whole round cancels out.
func ratio(a, b []float64) string {
	q := make([]float64, len(a))
	for i := range a {
		q[i] = a[i] / b[i]
	}
	m := median(q)
	if m == 0 {
		return "not known"
	}
	if m < 0.1 {
		return fmt.Sprintf("%.3f", m)
	}
	return fmt.Sprintf("%.2f", m)
}

func seconds(s float64) string {
	switch d := time.Duration(s * float64(time.Second)); {
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", s*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", s*1e3)
	default:
		return fmt.Sprintf("%.2f s", s)
	}
}
