package machine

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// maxServices bounds the services and the addresses that are learned.
const maxServices = 1 << 16

// Host is a host that receives packets, and the machines that evaluate them.
type Host struct {
	// Answers says that the capture has the host's own packets. Without them, the
	// host's answers are assumed.
	Answers bool

	base     []*chain // of all machines, in the order of the kernel
	all      lanes
	verdicts []Verdict
	dropped  lanes // the verdicts on the last packet that say so
	reported lanes // those with more
	local    map[netip.Addr]bool
	few      []netip.Addr // local, unless there are too many to look at each
	services map[Service]bool
	open     map[portOf]bool
	asked    Service // where Listens was asked about last, and the answer
	listens  bool
	flows    flows
}

// portOf is a port of a protocol, at any address.
type portOf struct {
	port  uint16
	proto uint8
}

// NewHost returns a host with at most 32 machines. The first one decides
// whether a packet that opens a connection gets through.
func NewHost(machines ...*Machine) *Host {
	if len(machines) > maxMachines {
		panic("machine: too many machines for one host")
	}
	share(machines)
	base, err := compile(machines)
	if err != nil {
		panic(fmt.Sprintf("machine: machines that New has made cannot be compiled together: %v", err))
	}
	return &Host{
		base: base, all: 1<<len(machines) - 1, verdicts: make([]Verdict, len(machines)),
		local: make(map[netip.Addr]bool), services: make(map[Service]bool), open: make(map[portOf]bool),
		flows: flows{seed: maphash.MakeSeed(), all: make(map[uint64]flow)},
	}
}

// AddAddr gives the host an address. It reports whether there was room.
func (h *Host) AddAddr(a netip.Addr) bool {
	if !h.IsLocal(a) && len(h.local) < maxServices {
		h.local[a] = true
		if len(h.local) <= manyAddrs {
			h.few = append(h.few, a)
		}
	}
	return h.IsLocal(a)
}

// manyAddrs are more addresses than a host has as a rule. They are found faster
// in a map.
const manyAddrs = 8

// IsLocal reports whether an address is one of the host.
func (h *Host) IsLocal(a netip.Addr) bool {
	if len(h.local) <= manyAddrs {
		return slices.Contains(h.few, a)
	}
	return h.local[a]
}

// Open makes a program listen on a port of every address, for good.
func (h *Host) Open(port uint16, proto uint8) {
	h.open[portOf{port, proto}] = true
	h.asked, h.listens = Service{}, false
}

// Listen makes a program listen, or stop listening.
func (h *Host) Listen(s Service, listens bool) {
	h.asked, h.listens = Service{}, false
	if !listens {
		delete(h.services, s)
	} else if len(h.services) < maxServices {
		h.services[s] = true
	}
}

// Listens reports whether a program listens.
func (h *Host) Listens(s Service) bool {
	if s != h.asked {
		h.asked, h.listens = s, h.services[s] || h.open[portOf{s.Port(), s.Proto}]
	}
	return h.listens
}

// Learn learns from a packet that the host sends: an answer says whether a
// program listens.
func (h *Host) Learn(p *Packet) {
	src, dst, ok := p.ports()
	if !ok {
		return
	}
	s := Service{netip.AddrPortFrom(p.Src, src), p.Proto}
	if listens, ok := p.Answer(); ok {
		h.Listen(s, listens)
	} else if p.Proto == unix.IPPROTO_UDP && src < dst && src < 1024 { // clients use high ports
		h.Listen(s, true)
	}
}

// Answer reports whether the packet answers a SYN, and whether it says that a
// program listens. A reset that answers a SYN has the sequence number 0.
func (p *Packet) Answer() (listens, ok bool) {
	switch flags, tcp := p.flags(); {
	case tcp && flags&(flagSYN|flagACK|flagRST) == flagSYN|flagACK:
		return true, true
	case tcp && flags&(flagRST|flagACK) == flagRST|flagACK:
		return false, [4]byte(p.transport[4:8]) == [4]byte{}
	}
	return false, false
}

// hasSocket reports whether a socket would get the packet: that of a listening
// program, or of a connection that the host opened.
func (h *Host) hasSocket(p *Packet) bool {
	s, ok := p.Service()
	return ok && (p.ct.known && p.ct.reply || h.Listens(s))
}

// Receive passes a packet to the machines, and returns their verdicts, which
// are valid until the next packet.
func (h *Host) Receive(p *Packet) []Verdict {
	p.host, p.ct = h, noConnection
	for lane := range h.reported.each() {
		h.verdicts[lane] = Verdict{Dropped: h.verdicts[lane].Dropped}
	}
	h.reported = 0
	accepted := h.run(p, h.all, false)
	if accepted != 0 {
		p.ct = h.flows.track(p)
		accepted = h.run(p, accepted, true)
	}
	if accepted.has(0) {
		h.confirm(p)
	}
	dropped := h.all &^ accepted
	for lane := range (dropped ^ h.dropped).each() {
		h.verdicts[lane].Dropped = dropped.has(lane)
	}
	h.dropped = dropped
	return h.verdicts
}

// report returns the verdict of a machine, to be added to.
func (h *Host) report(lane int) *Verdict {
	h.reported |= 1 << lane
	return &h.verdicts[lane]
}

// run takes a packet through the base chains before conntrack, or those after
// it, and returns the lanes that accept it.
func (h *Host) run(p *Packet, ls lanes, tracked bool) lanes {
	for _, c := range h.base {
		if (c.priority > conntrackPriority) == tracked && ls != 0 {
			_, dropped := c.run(p, ls)
			ls &^= dropped
		}
	}
	return ls
}

// confirm remembers the connection that a packet opens, and assumes the host's
// answer if the capture has none.
func (h *Host) confirm(p *Packet) {
	next := &h.flows.next
	if s, ok := p.Service(); !h.Answers && h.IsLocal(p.Dst) {
		switch {
		case p.Proto == unix.IPPROTO_TCP && !h.Listens(s):
			*next = flow{} // a reset ends it
		case p.Proto == unix.IPPROTO_TCP && next.state == tcpSynSent:
			next.replied, next.state = true, tcpSynRecv
		case !ok || h.Listens(s):
			next.replied = true
		}
	}
	h.flows.confirm(p.Now)
}

// Send takes note of a packet that the host sends.
func (h *Host) Send(p *Packet) {
	h.flows.track(p)
	h.flows.confirm(p.Now)
}

// Addrs returns the addresses of the host, sorted.
func (h *Host) Addrs() []netip.Addr {
	return slices.SortedFunc(maps.Keys(h.local), netip.Addr.Compare)
}

// Services returns where programs listen, sorted. Those that listen on every
// address have none.
func (h *Host) Services() []Service {
	all := slices.Collect(maps.Keys(h.services))
	for p := range h.open {
		all = append(all, Service{netip.AddrPortFrom(netip.Addr{}, p.port), p.proto})
	}
	slices.SortFunc(all, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port(), b.Port()), a.Addr().Compare(b.Addr()))
	})
	return all
}
