package bench

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// usage is what processes cost.
type usage struct {
	Wall, CPU time.Duration
	RSS       int64 // peak, in bytes; of a pipeline the sum
}

// killed is of processes that end with the thread that started them.
var killed = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}

// meter runs a pipeline, whose commands are separated by "|", and writes its
// usage to standard output. It is a small process between the benchmarks and
// what is measured: the peak memory that the kernel reports of a process is at
// least that of the process which started it, and the benchmarks' own is large.
func meter(args []string) error {
	var stages []*exec.Cmd
	for len(args) > 0 {
		n := slices.Index(append(args, "|"), "|")
		cmd := exec.Command(args[0], args[1:n]...)
		cmd.Stderr, cmd.SysProcAttr = os.Stderr, killed
		if len(stages) > 0 {
			var err error
			if cmd.Stdin, err = stages[len(stages)-1].StdoutPipe(); err != nil {
				return err
			}
		}
		stages, args = append(stages, cmd), args[min(n+1, len(args)):]
	}
	var u usage
	begin := time.Now()
	for _, cmd := range stages {
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	for _, cmd := range stages {
		if err := cmd.Wait(); err != nil {
			return err
		}
		s := cmd.ProcessState
		u.CPU += s.UserTime() + s.SystemTime()
		u.RSS += peak(s)
	}
	u.Wall = time.Since(begin)
	return json.NewEncoder(os.Stdout).Encode(u)
}

func peak(s *os.ProcessState) int64 { return s.SysUsage().(*syscall.Rusage).Maxrss << 10 }

// command returns what runs a pipeline on a host and measures it. What the last
// command prints is thrown away.
func command(b *testing.B, h *netnstest.Host, pipeline ...string) func() usage {
	return func() (u usage) {
		cmd := exec.Command("/proc/self/exe", append([]string{"meter"}, pipeline...)...)
		var stderr strings.Builder
		cmd.Stderr, cmd.SysProcAttr = &stderr, killed
		var text []byte
		var err error
		h.Do(func() { text, err = cmd.Output() })
		if err == nil {
			err = json.Unmarshal(text, &u)
		}
		if err != nil {
			b.Fatalf("%s: %v: %.1000s", strings.Join(pipeline, " "), err, stderr.String())
		}
		return u
	}
}

// self returns what runs a command of this binary.
func self(b *testing.B, h *netnstest.Host, args ...string) func() usage {
	return command(b, h, append([]string{os.Args[0]}, args...)...)
}

// runner is one of those that do the same work.
type runner struct {
	name string
	// prepare, unless it is nil, puts the host into the state that the work
	// starts from. It is not measured.
	prepare func()
	run     func() usage
}

// newContest returns a table for contests, in each of which the runners are
// compared to the first.
func newContest(caption, reference string) *table {
	return &table{caption: caption, text: 2, columns: []string{"work", "by", "time", "from–to", "CPU", "peak memory",
		"time : " + reference, "CPU : " + reference, "memory : " + reference}}
}

// contest lets the runners work n times in random order, and adds a row for
// each: its medians, and its ratios to the first.
func (t *table) contest(b *testing.B, work string, n int, runners ...runner) {
	costs := make([][3][]float64, len(runners)) // seconds, seconds of CPU, megabytes
	for range n {
		for _, i := range rand.Perm(len(runners)) {
			r := runners[i]
			if r.prepare != nil {
				r.prepare()
			}
			u := r.run()
			for kind, cost := range []float64{u.Wall.Seconds(), u.CPU.Seconds(), float64(u.RSS) / 1e6} {
				costs[i][kind] = append(costs[i][kind], cost)
			}
			sample(b, work, r.name, "%d ns/op %d cpu-ns/op %d peak-B/op", u.Wall, u.CPU, u.RSS)
		}
	}
	for i, r := range runners {
		row := []string{work, r.name, seconds(median(costs[i][0])), seconds(slices.Min(costs[i][0])) + "–" + seconds(slices.Max(costs[i][0])),
			seconds(median(costs[i][1])), megabytes(median(costs[i][2]))}
		for kind, values := range costs[i] {
			row = append(row, fmt.Sprintf("%.2f", median(pairs(values, costs[0][kind], func(a, b float64) float64 { return a / b }))))
		}
		t.row(row...)
		work = ""
	}
}

// sample prints a measurement for benchstat.
func sample(b *testing.B, work, by, format string, values ...any) {
	name := strings.NewReplacer(" ", "_", "`", "", "/", "_", ",", "")
	fmt.Printf("%s/work=%s/by=%s 1 "+format+"\n", append([]any{b.Name(), name.Replace(work), name.Replace(by)}, values...)...)
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}

// pairs combines what was measured in the same round, so that what disturbed a
// whole round cancels out.
func pairs(a, b []float64, combine func(a, b float64) float64) []float64 {
	c := make([]float64, len(a))
	for i := range a {
		c[i] = combine(a[i], b[i])
	}
	return c
}

func seconds(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.1f ms", s*1e3)
	}
	return fmt.Sprintf("%.2f s", s)
}

func megabytes(mb float64) string { return fmt.Sprintf("%.1f MB", mb) }
