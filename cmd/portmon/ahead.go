package main

import (
	"iter"
	"time"
)

// dated is what was read from the kernel, and when.
type dated[T any] struct {
	value T
	at    time.Time
	err   error
}

// ahead reads a sequence in the background as soon as it is called, up to a
// hundred thousand values ahead: most of the time the kernel is at work, and
// what is read can be worked up meanwhile. Nothing else may use the connection
// until the loop over it has ended.
func ahead[T any](seq iter.Seq2[T, error], now func() time.Time) iter.Seq[dated[T]] {
	const size, most = 256, 400
	chunks, stop := make(chan []dated[T], most), make(chan struct{})
	go func() {
		defer close(chunks)
		var chunk []dated[T]
		for v, err := range seq {
			if chunk = append(chunk, dated[T]{v, now(), err}); len(chunk) < size {
				continue
			}
			select {
			case chunks <- chunk:
				chunk = make([]dated[T], 0, size)
			case <-stop:
				return
			}
		}
		select {
		case chunks <- chunk:
		case <-stop:
		}
	}()
	return func(yield func(dated[T]) bool) {
		defer func() {
			close(stop)
			for range chunks { // until the connection is free
			}
		}()
		for chunk := range chunks {
			for _, d := range chunk {
				if !yield(d) {
					return
				}
			}
		}
	}
}
