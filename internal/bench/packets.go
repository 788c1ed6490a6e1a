package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	// otherBans is how many bans are in the table besides those of the flows.
	otherBans = 10000
	// turn is how often the frames of a flow are sent before it is the next contender's turn: 1,024 packets, some 3 ms.
	turn = 1024 / sources
	// roundsPerCount is how many rounds there are for each repetition of a command.
	roundsPerCount = 40
	// reference is the index of the contender that others are compared to.
	reference = 1
	// epoch is how many rounds are run before all hosts are made anew, since costs depend on where things lie in memory.
	epoch = 80
)

// packets measures what the table costs a packet, beside no table and the one that people write by hand.
func packets(b *bench, _ *scope) (*table, error) {
	return comparePackets(b, "CPU time per packet", []contender{noTable, seedTable, portmonTable})
}

// comparePackets makes a table with a row for each contender. All are compared to the second one.
func comparePackets(b *bench, caption string, contenders []contender) (*table, error) {
	s, err := runPackets(contenders, b.count*roundsPerCount)
	if err != nil {
		return nil, err
	}
	t := &table{caption: caption, columns: []string{"table"}, note: packetsNote}
	for _, f := range flows {
		t.columns = append(t.columns, f.name)
	}
	for i, c := range contenders {
		row := []string{c.name}
		for f := range flows {
			cell := fmt.Sprintf("%.0f ns", median(s[f][i]))
			if i != reference {
				d := differences(s[f][i], s[f][reference])
				cell += fmt.Sprintf(" (%+.0f ± %.0f, %.2f)", median(d), spread(d), median(s[f][i])/median(s[f][reference]))
			}
			row = append(row, cell)
		}
		t.row(row...)
	}
	return t, nil
}

const packetsNote = "Time of one CPU for sending a packet, taking it through a veth pair, and all that the receiver's kernel does " +
	"with it. In brackets the difference to the hand-written table in ns, and the ratio. Connection tracking is on, unless it says otherwise."

// samples are nanoseconds per packet: samples[flow][contender] has one for each round.
type samples [][][]float64

// runPackets sends each flow to each contender in turn, rounds times.
func runPackets(contenders []contender, rounds int) (samples, error) {
	out := make(samples, len(flows))
	for f := range out {
		out[f] = make([][]float64, len(contenders))
	}
	for done := 0; done < rounds; done += epoch {
		err := within(func(t *scope) error {
			lanes := make([]*lane, len(contenders))
			for i, c := range contenders {
				var err error
				if lanes[i], err = newLane(t, c); err != nil {
					return err
				}
			}
			return pinned(func() error { return runEpoch(lanes, min(epoch, rounds-done), out) })
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func runEpoch(lanes []*lane, rounds int, out samples) error {
	for _, l := range lanes {
		if err := l.verify(); err != nil {
			return err
		}
	}
	for round := range rounds {
		for f := range flows {
			for i := range lanes {
				i = (i + round) % len(lanes)
				ns, err := lanes[i].flows[f].send(turn)
				if err != nil {
					return fmt.Errorf("send %s through %s: %w", flows[f].name, lanes[i].name, err)
				}
				out[f][i] = append(out[f][i], ns)
			}
		}
	}
	return nil
}

// verify sends some packets of each flow and checks that they get as far as they should.
func (l *lane) verify() error {
	for i, f := range flows {
		if _, err := l.flows[i].send(1); err != nil { // fills the UDP socket: what waits in it is not counted
			return err
		}
		before, err := l.received(f)
		if err != nil {
			return err
		}
		const repeat = 10
		if _, err := l.flows[i].send(repeat); err != nil {
			return err
		}
		after, err := l.received(f)
		if err != nil {
			return err
		}
		want := repeat * sources
		if l.drops && !f.reach {
			want = 0
		}
		if after-before != want {
			return fmt.Errorf("%s: %d of %d packets of %q got to a socket, %d should have", l.name, after-before, repeat*sources, f.name, want)
		}
	}
	return nil
}

// received returns how many packets have got to the server's sockets of the flow's kind.
func (l *lane) received(f flow) (n int, err error) {
	l.link.B.Host.Do(func() {
		var v4, v6 []byte
		if v4, err = os.ReadFile("/proc/thread-self/net/snmp"); err == nil {
			v6, err = os.ReadFile("/proc/thread-self/net/snmp6")
		}
		values := parseSNMP(v4, v6)
		for _, name := range f.counter {
			n += values[name]
		}
	})
	return n, err
}

// parseSNMP reads the two formats: pairs of lines, "Udp: NAME NAME" and "Udp: 1 2", and lines "NAME 1".
func parseSNMP(v4, v6 []byte) map[string]int {
	values := map[string]int{}
	var names []string
	for line := range bytes.Lines(v4) {
		fields := strings.Fields(string(line))
		if len(names) == 0 {
			names = fields
			continue
		}
		for i, name := range names[1:] {
			values[strings.TrimSuffix(names[0], ":")+" "+name], _ = strconv.Atoi(fields[i+1])
		}
		names = nil
	}
	for line := range bytes.Lines(v6) {
		if fields := strings.Fields(string(line)); len(fields) == 2 {
			values[fields[0]], _ = strconv.Atoi(fields[1])
		}
	}
	return values
}
