package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/netnstest"
)

func syn(src netip.Addr, to netip.AddrPort) netnstest.Packet { return netnstest.SYN(src, to) }

func now() book.Clock { return book.ReadClock() }
