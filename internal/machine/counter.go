package machine

import "github.com/portmon/portmon/ruleset"

// counters are the counters of one name of several machines. Most packets count
// in the same machines as the one before, so those are added up together.
type counters struct {
	lanes lanes
	same  ruleset.Counter // what is to be added to those of the lanes
	all   [maxMachines]ruleset.Counter
}

// counter is the counter of one machine.
type counter struct {
	by   *counters
	lane int
}

func (c *counters) add(ls lanes, bytes uint64) {
	if ls != c.lanes {
		c.settle()
		c.lanes = ls
	}
	c.same.Packets++
	c.same.Bytes += bytes
}

func (c *counters) settle() {
	for lane := range c.lanes.each() {
		c.all[lane].Packets += c.same.Packets
		c.all[lane].Bytes += c.same.Bytes
	}
	c.same = ruleset.Counter{}
}

func (c *counters) get(lane int) ruleset.Counter {
	c.settle()
	return c.all[lane]
}
