package notice

import (
	"runtime"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/watch"
)

// Who scans chooses sources and ports, and others choose reasons. The memory
// that they take has an end.
func TestBounded(t *testing.T) {
	var d digest
	reason := strings.Repeat("x", 10_000)
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			e := banned(host(i), uint16(i))
			e.Proto = uint8(i >> 16)
			e.Reason = reason
			e.Kind = watch.Kind(i % int(watch.Kinds))
			if i%2 == 0 {
				e.Kind = watch.Banned
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
			t.Errorf("%d are named of %v", len(g.named), watch.Kind(k))
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
