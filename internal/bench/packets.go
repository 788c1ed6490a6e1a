package main

import (
	"fmt"
	"math/rand/v2"
)

const (
	// turn is how many packets of a flow are sent before it is the next
	// contender's turn: some 3 ms, or all of them once if there are more.
	turn = 1024
	// epochsPerCount is how many epochs there are for each repetition of a
	// command. What a packet costs depends on where things lie in memory, so
	// each epoch has new hosts, and all is done in a random order: of the same
	// tables, those whose connections are tracked first cost up to 50 ns more.
	epochsPerCount = 5
	// rounds is how often it is each contender's turn in an epoch.
	rounds = 8
	// reference is the index of the contender that others are compared to.
	reference = 1
)

// warm measures what the table costs a packet, beside no table and the one
// that people write by hand.
func warm(b *bench, _ *scope) (*table, error) {
	return comparePackets(b, "CPU time per packet, 64 sources", warmFlows)
}

// cold measures it where neither sources nor bans are in the caches.
func cold(b *bench, _ *scope) (*table, error) {
	return comparePackets(b, "CPU time per packet, 4,096 sources", coldFlows)
}

// comparePackets makes a table with a row for each contender.
func comparePackets(b *bench, caption string, flows []flow) (*table, error) {
	contenders, err := b.contenders()
	if err != nil {
		return nil, err
	}
	t := &table{caption: caption, columns: []string{"table"}, note: packetsNote}
	samples := make([][][]float64, len(flows)) // of each flow, of each contender: for each epoch the median of its rounds
	for f := range flows {
		t.columns = append(t.columns, flows[f].name)
		samples[f] = make([][]float64, len(contenders))
	}
	for range b.count * epochsPerCount {
		if err := runEpoch(contenders, flows, samples); err != nil {
			return nil, err
		}
	}
	for i, c := range contenders {
		row := []string{c.name}
		for f := range flows {
			cell := fmt.Sprintf("%.0f ns", median(samples[f][i]))
			if i != reference {
				d := differences(samples[f][i], samples[f][reference])
				cell += fmt.Sprintf(" (%+.0f ± %.0f)", median(d), spread(d))
			}
			row = append(row, cell)
		}
		t.row(row...)
	}
	return t, nil
}

const packetsNote = "Time of one CPU for sending a packet, taking it through a veth pair, and all that the receiver's kernel does " +
	"with it. In brackets the difference to the hand-written table. Connection tracking is on, and 60,000 sources of each family are banned."

// runEpoch sends each flow to each contender in turn.
func runEpoch(contenders []contender, flows []flow, samples [][][]float64) error {
	return within(func(t *scope) error {
		lanes := make([]*lane, len(contenders))
		for _, i := range rand.Perm(len(contenders)) {
			var err error
			if lanes[i], err = newLane(t, contenders[i], flows); err != nil {
				return err
			}
		}
		return pinned(func() error {
			for _, i := range rand.Perm(len(lanes)) {
				if err := lanes[i].verify(flows); err != nil {
					return err
				}
			}
			for f := range flows {
				costs := make([][]float64, len(lanes))
				for range rounds {
					for _, i := range rand.Perm(len(lanes)) {
						ns, err := lanes[i].flows[f].send(max(1, turn/flows[f].sources))
						if err != nil {
							return fmt.Errorf("send %s through %s: %w", flows[f].name, lanes[i].name, err)
						}
						costs[i] = append(costs[i], ns)
					}
				}
				for i, c := range costs {
					samples[f][i] = append(samples[f][i], median(c))
				}
			}
			return nil
		})
	})
}
