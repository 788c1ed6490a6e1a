package netnstest

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// whole repeats a listing until nothing changed while the kernel told it, which on slow machines happens to every new link: the
// kernel itself is still adding addresses and routes.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
}
