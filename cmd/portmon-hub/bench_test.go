package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const (
	fleetSize  = 500
	realHosts  = 6 // with watchers and tables
	lightHalls = 10
	perBan     = 5      // sightings, each by another host
	probeBase  = 200000 // of the sources whose way is timed; see [source]
	offences   = 200
	phase      = 20 * time.Second

	simulatedCPUs = 4
)

// BenchmarkFleet measures a fleet of 500 hosts on one machine, of which six have
// tables and watchers, and the others are clients whose tables only count:
//
//	make bench-fleet
//
// It prints what benchstat reads. Processors are in per cent of one.
func BenchmarkFleet(b *testing.B) {
	f := newMeasured(b)
	report("joined", "%.1f s-for-%d-hosts %.1f hub-MB %.3f hub-MB/host", f.joined.Seconds(), fleetSize, f.hub.rss(b), (f.hub.rss(b)-f.alone)/fleetSize)

	time.Sleep(5 * time.Second) // what joining has left to do is no part of this
	idle := f.during("idle", phase, func() {})
	f.offend("quiet", offences, 150*time.Millisecond)
	f.during("1_sighting/s", phase, func() { f.load(int(phase/time.Second), 1) })
	f.costs.idle, f.costs.memory = idle.hub/idle.took.Seconds()/fleetSize, (f.hub.rss(b)-f.alone)/fleetSize
	for _, rate := range []int{100, 1000} {
		name := fmt.Sprintf("%d_sightings/s", rate)
		busy := f.during(name, phase, func() {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				f.load(rate*int(phase/time.Second), rate)
			}()
			f.offend(name, int(phase/time.Second)*2, 400*time.Millisecond)
			<-ended
		})
		if rate == 1000 {
			f.costs.delivery = (busy.hub - idle.hub*busy.took.Seconds()/idle.took.Seconds()) / float64(busy.deliveries)
			f.costs.bytes = float64(busy.sent) / float64(busy.deliveries)
		}
	}
	alone := f.during("1000_sightings/s_without_bans", phase/2, func() { f.see(1000*int(phase/2/time.Second), 1, 1000) })
	f.costs.sighting = (alone.hub - idle.hub*alone.took.Seconds()/idle.took.Seconds()) / (1000 * (phase / 2).Seconds())
	f.outage(fmt.Sprintf("%d_hosts_cut_off_for_%v", f.lights[0].n+f.lights[1].n, phase), func() {
		f.reach(f.lights[0], false)
		f.reach(f.lights[1], false)
		f.load(100*int(phase/time.Second), 100)
		f.reach(f.lights[0], true)
		f.reach(f.lights[1], true)
	})
	f.outage("hub_killed_for_1m", func() {
		f.kill()
		f.load(100*60, 100)
		f.host.Do(f.start)
	})
	report("costs", "%.1f us/delivery %.0f B/delivery %.1f us/sighting %.1f us/host-and-s %.0f kB/host", f.costs.delivery*1e6, f.costs.bytes, f.costs.sighting*1e6,
		f.costs.idle*1e6, f.costs.memory*1000)
	for _, hosts := range []int{10, fleetSize, 10_000} {
		f.costs.simulate(hosts, f.alone)
	}
}

// BenchmarkRevoke measures until what only one host said is withdrawn.
func BenchmarkRevoke(b *testing.B) {
	l := newLab(b)
	bad, good := l.join("bad"), l.join("good")
	w := good.watch()
	for i := range 1000 {
		bad.see(source(i))
	}
	good.see(source(0))
	w.wait("bans", func() bool { return w.inForce() == 1000 && w.get(source(0)).Hosts == 2 })
	begun := time.Now()
	l.command("revoke", "bad")
	w.wait("the withdrawals", func() bool { return w.inForce() == 1 })
	report("revoked_with_1,000_bans", "%.0f ms", time.Since(begun).Seconds()*1000)
}

// report prints a sample for benchstat.
func report(name, metrics string, values ...any) {
	fmt.Println("BenchmarkFleet/"+name, 1, fmt.Sprintf(metrics, values...))
}

// measured is a fleet whose costs are measured.
type measured struct {
	*internet
	b      *testing.B
	hub    process
	real   []*watched
	lights []*lights
	joined time.Duration
	alone  float64 // megabytes of the hub without hosts
	costs  costs

	mu      sync.Mutex
	next    int         // source that is not used yet
	bans    int         // that each host is told in all
	begun   []time.Time // when each timed source offended
	arrived map[string][]time.Duration
}

// newMeasured has all hosts join.
func newMeasured(b *testing.B) *measured {
	f := &measured{internet: newInternet(b), b: b, arrived: make(map[string][]time.Duration)}
	f.hub = process(f.cmd.Process.Pid)
	f.alone = f.hub.rss(b)
	for n := range realHosts {
		f.real = append(f.real, f.newHost(fmt.Sprintf("real-%d", n)))
	}
	begun := time.Now()
	for n, w := range f.real {
		f.joins(w, fmt.Sprintf("real-%d", n))
		f.monitor(w)
	}
	f.lights = f.newLights(lightHalls, fleetSize-realHosts)
	for _, l := range f.lights {
		l.on = func(n int, at time.Time) { f.arrivedAt("client", n, at) }
	}
	f.joined = time.Since(begun)
	return f
}

// monitor notes when sources whose way is timed are in the kernel of a host.
func (f *measured) monitor(w *watched) {
	table := nftset.Table{Family: nftset.FamilyINet, Name: ruleset.Default().Table}
	m, err := nftset.Listen(&nftset.MonitorConfig{NetNS: w.host.FD(), Table: table, Sets: []nftset.Set{*w.table().Set("fleet4")}})
	if err != nil {
		f.b.Fatal(err)
	}
	f.b.Cleanup(func() { m.Close() })
	go func() {
		for {
			events, err := m.Receive(nil)
			if err != nil {
				return
			}
			now := time.Now()
			for _, e := range events {
				if e.Kind == nftset.ElementAdded {
					f.arrivedAt("kernel", numberOf(e.Element.From.Addr())-probeBase, now)
				}
			}
		}
	}()
}

func (f *measured) arrivedAt(where string, n int, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n >= 0 && n < len(f.begun) {
		f.arrived[where] = append(f.arrived[where], at.Sub(f.begun[n]))
	}
}

// offend has sources offend on one host each, two others having seen them before,
// and reports when they are banned on all.
func (f *measured) offend(name string, n int, every time.Duration) {
	f.mu.Lock()
	first := len(f.begun)
	clear(f.arrived)
	f.mu.Unlock()
	f.lights[0].send("see %d %d 2 0", probeBase+first, 2*n)
	time.Sleep(time.Second) // in which the hub has read them
	for k := range n {
		target := f.real[k%len(f.real)]
		f.mu.Lock()
		f.begun = append(f.begun, time.Now())
		f.mu.Unlock()
		f.host.Send(netnstest.SYN(source(probeBase+first+k).Addr(), netip.AddrPortFrom(target.address, 23)))
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(every)))
	}
	f.mu.Lock()
	f.bans += n
	f.mu.Unlock()
	for where, hosts := range map[string]int{"kernel": realHosts, "client": fleetSize - realHosts} {
		f.await(name, func() bool { return len(f.arrived[where]) >= n*hosts })
		f.mu.Lock()
		slices.Sort(f.arrived[where])
		at := func(share float64) float64 {
			all := f.arrived[where]
			return all[int(share*float64(len(all)-1))].Seconds() * 1000
		}
		report("offence_to_"+where+"/"+name, "%.0f p50-ms %.0f p99-ms %.0f worst-ms %d samples", at(.5), at(.99), at(1), len(f.arrived[where]))
		f.mu.Unlock()
	}
}

func (f *measured) await(what string, is func() bool) {
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		f.mu.Lock()
		done := is()
		f.mu.Unlock()
		if done {
			return
		}
		if time.Since(begun) > patience {
			f.b.Fatalf("%s: not all has arrived", what)
		}
	}
}

// outage reports how long it takes, after something is in the way of 100 sightings a
// second, until all hosts have all bans. None may be lost or told twice.
func (f *measured) outage(name string, during func()) {
	during()
	begun := time.Now()
	awaitHeld(f.bans*(fleetSize-realHosts), f.lights...)
	var s jetstream.StreamState
	f.host.Do(func() { s = f.stored() })
	report(name, "%.1f s-until-all-have-all %d bans %d lost %d told-again", time.Since(begun).Seconds(), f.bans, f.bans-int(s.Msgs), int(s.LastSeq)-f.bans)
}

// load has hosts see sources, each by five, and returns when all have been told.
func (f *measured) load(sightings, rate int) { f.see(sightings, perBan, rate) }

func (f *measured) see(sightings, each, rate int) {
	halls := f.lights[:min(len(f.lights), max(1, rate/10))]
	for _, l := range halls {
		share := sightings / len(halls)
		f.mu.Lock()
		f.next += share / each
		if each >= 3 {
			f.bans += share / each
		}
		l.send("see %d %d %d %d", f.next-share/each, share, each, rate/len(halls))
		f.mu.Unlock()
	}
	time.Sleep(time.Duration(sightings/rate) * time.Second)
}

// usage is what was used in a time, processors in seconds.
type usage struct {
	took             time.Duration
	hub, real        float64
	light            float64
	sent             int64 // bytes, by the hub
	told, deliveries int
}

func (f *measured) usage() usage {
	u := usage{hub: f.hub.cpu(f.b), sent: f.sent(), told: f.bans * fleetSize}
	for _, w := range f.real {
		u.real += process(w.pid).cpu(f.b) / realHosts
	}
	for _, l := range f.lights {
		u.light += process(l.cmd.Process.Pid).cpu(f.b) / (fleetSize - realHosts)
	}
	return u
}

// during reports what is used while something is done for a time, and until all
// hosts have been told.
func (f *measured) during(name string, d time.Duration, work func()) usage {
	before, begun := f.usage(), time.Now()
	work()
	time.Sleep(time.Until(begun.Add(d)))
	lagged := time.Now()
	awaitHeld(f.bans*(fleetSize-realHosts), f.lights...)
	lag := time.Since(lagged)
	u := f.usage()
	u.took, u.hub, u.real, u.light = time.Since(begun), u.hub-before.hub, u.real-before.real, u.light-before.light
	u.sent, u.deliveries = u.sent-before.sent, u.told-before.told
	percent := func(cpu float64) float64 { return 100 * cpu / u.took.Seconds() }
	report(name, "%.1f hub-cpu-%% %.1f hub-MB %.2f host-cpu-%% %.1f host-MB %.3f light-cpu-%% %.0f deliveries/s %.0f sent-kB/s %.2f lag-s",
		percent(u.hub), f.hub.rss(f.b), percent(u.real), process(f.real[0].pid).rss(f.b), percent(u.light), float64(u.deliveries)/u.took.Seconds(),
		float64(u.sent)/1000/u.took.Seconds(), lag.Seconds())
	return u
}

// sent returns the bytes that the hub's namespace has sent.
func (f *measured) sent() (sum int64) {
	var data []byte
	var err error
	f.host.Do(func() { data, err = os.ReadFile("/proc/thread-self/net/dev") })
	if err != nil {
		f.b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name, numbers, ok := strings.Cut(line, ":")
		if fields := strings.Fields(numbers); ok && strings.Contains(name, "eth") {
			var n int64
			fmt.Sscan(fields[8], &n)
			sum += n
		}
	}
	return sum
}

// process is one whose costs are measured.
type process int

// cpu returns the seconds of a processor that it has used.
func (p process) cpu(t testing.TB) float64 {
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^p<<3|2), &at); err != nil { // as clock_getcpuclockid(3) has it
		t.Fatal(err)
	}
	return time.Duration(at.Nano()).Seconds()
}

// rss returns the megabytes of its memory that are resident.
func (p process) rss(t testing.TB) float64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/statm", p))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var size, resident int64
	if _, err := fmt.Fscan(bufio.NewReader(f), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return float64(resident*int64(os.Getpagesize())) / 1e6
}

// costs are what was measured: seconds of a processor of the hub, bytes, and
// megabytes.
type costs struct {
	delivery, sighting float64
	idle               float64 // of each host and second
	bytes              float64 // of each delivery
	memory             float64 // of each host
}

// simulate reports what a fleet of a size would cost, at 100 sightings of a host
// a day, and ten times as many for a while. The bans come at random, and the hub
// tells one after the other, with four processors at once.
func (c *costs) simulate(hosts int, alone float64) {
	for _, times := range []int{1, 10} {
		sightings := 100 * float64(hosts*times) / (24 * 60 * 60)
		rate, service := sightings/perBan, float64(hosts)*c.delivery/simulatedCPUs
		r := rand.New(rand.NewPCG(13, uint64(hosts)))
		var now, free float64
		waits := make([]float64, 100_000)
		for i := range waits {
			now += r.ExpFloat64() / rate
			free = max(now, free) + service
			waits[i] = free - now
		}
		slices.Sort(waits)
		name := fmt.Sprintf("simulated/hosts=%d/times=%d", hosts, times)
		report(name, "%.2f sightings/s %.2f bans/s %.0f deliveries/s %.2f hub-cpu-%% %.0f hub-MB %.1f sent-kB/s %.0f p50-ms-to-the-last %.0f p99-ms-to-the-last",
			sightings, rate, rate*float64(hosts), 100*(sightings*c.sighting+rate*float64(hosts)*c.delivery+float64(hosts)*c.idle), alone+float64(hosts)*c.memory,
			rate*float64(hosts)*c.bytes/1000, 1000*waits[len(waits)/2], 1000*waits[len(waits)*99/100])
	}
}
