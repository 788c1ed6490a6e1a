package notice

import (
	"runtime"
	"strings"
	"testing"
)

// A ban and the escalation that follows it are one offence.
func TestSupersede(t *testing.T) {
	a, b := host(1), host(2)
	tests := []struct {
		name    string
		events  []Event
		title   string
		message string
	}{
		{
			"alone", []Event{banned(a, 445), escalated(a, 2)},
			"198.51.0.1 escalated", "198.51.0.1 escalated to tier 2, banned for 3d after 2 offences: tcp port 23",
		},
		{
			"after others", []Event{banned(b, 23), banned(a, 445), escalated(a, 2)},
			"1 escalated, 1 banned", "1 escalated: 198.51.0.1 to tier 2\n1 banned: 198.51.0.2\ntrapped at tcp port 23 (1), tcp port 445 (1)",
		},
		{
			"of another", []Event{banned(a, 445), escalated(b, 2)},
			"1 escalated, 1 banned", "1 escalated: 198.51.0.2 to tier 2\n1 banned: 198.51.0.1\ntrapped at tcp port 445 (1)",
		},
		{
			"not named", []Event{banned(host(3), 1), banned(host(4), 1), banned(host(5), 1), banned(host(6), 1), banned(host(7), 1), banned(a, 1), escalated(a, 2)},
			"1 escalated, 5 banned",
			"1 escalated: 198.51.0.1 to tier 2\n5 banned: 198.51.0.3, 198.51.0.4, 198.51.0.5, 198.51.0.6, 198.51.0.7\ntrapped at tcp port 1 (6)",
		},
	}
	for _, tt := range tests {
		n := composed(tt.events...)
		if n.title != "web1: "+tt.title || n.message != tt.message || n.count != len(tt.events)-1 && tt.name != "of another" {
			t.Errorf("%s: got %d events\n%s\n%s", tt.name, n.count, n.title, n.message)
		}
	}
}

// Who scans chooses sources and ports, and others choose reasons. The memory that they take has an end.
func TestBounded(t *testing.T) {
	var d digest
	reason := strings.Repeat("x", 10_000)
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			e := banned(host(i), uint16(i))
			e.Proto = uint8(i >> 16)
			e.Reason = reason
			e.Kind = Kind(i % int(kindCount))
			if i%2 == 0 {
				e.Kind = Banned
			}
			d.add(e)
		}
	}
	fill(0, 50_000)
	before := heap()
	fill(50_000, 200_000)
	if grown := heap() - before; grown > 100_000 {
		t.Errorf("150,000 events took %d bytes", grown)
	}
	if d.total != 200_000 || len(d.ports.by) != maxPorts {
		t.Errorf("%d events, %d ports", d.total, len(d.ports.by))
	}
	for k, g := range d.groups {
		if len(g.named) > maxNamed {
			t.Errorf("%d are named of %v", len(g.named), Kind(k))
		}
	}
	runtime.KeepAlive(&d)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
