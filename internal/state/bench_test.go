package state

import (
	"os"
	"testing"
	"time"
)

const hundredThousand = 100_000

func BenchmarkWrite100000(b *testing.B) {
	path := statePath(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Write(path, header, many(hundredThousand)); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/hundredThousand, "B/record")
}

func BenchmarkRead100000(b *testing.B) {
	path := statePath(b)
	if _, err := Write(path, header, many(hundredThousand)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for range f.Records() {
			n++
		}
		if f.Close(); n != hundredThousand {
			b.Fatal(n)
		}
	}
}

func BenchmarkRestore100000(b *testing.B) {
	for b.Loop() {
		r, err := Restore(header, many(hundredThousand), later(time.Second, rebooted), newLedger())
		if err != nil || r.Offenders != hundredThousand {
			b.Fatal(r, err)
		}
	}
}
