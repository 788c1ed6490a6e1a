package machine

import "time"

// tcpState is a state of a TCP connection, or what becomes of a packet that
// leads to none. The states are those of
// include/uapi/linux/netfilter/nf_conntrack_tcp.h.
type tcpState uint8

const (
	tcpNone tcpState = iota
	tcpSynSent
	tcpSynRecv
	tcpEstablished
	tcpFinWait
	tcpCloseWait
	tcpLastAck
	tcpTimeWait
	tcpClose
	tcpSynSent2
	tcpIgnored // the packet changes nothing
	tcpInvalid // the packet belongs to no connection
)

// tcpTimeouts are tcp_timeouts of net/netfilter/nf_conntrack_proto_tcp.c.
var tcpTimeouts = [...]time.Duration{
	tcpSynSent: 2 * time.Minute, tcpSynRecv: time.Minute, tcpEstablished: 5 * 24 * time.Hour,
	tcpFinWait: 2 * time.Minute, tcpCloseWait: time.Minute, tcpLastAck: 30 * time.Second,
	tcpTimeWait: 2 * time.Minute, tcpClose: 10 * time.Second, tcpSynSent2: 2 * time.Minute,
}

type tcpEvent uint8

const (
	eventSYN tcpEvent = iota
	eventSYNACK
	eventFIN
	eventACK
	eventRST
	eventNone
)

// tcpEventOf is get_conntrack_index.
func tcpEventOf(p *Packet) tcpEvent {
	flags, _ := p.flags()
	switch {
	case flags&flagRST != 0:
		return eventRST
	case flags&flagSYN != 0 && flags&flagACK != 0:
		return eventSYNACK
	case flags&flagSYN != 0:
		return eventSYN
	case flags&flagFIN != 0:
		return eventFIN
	case flags&flagACK != 0:
		return eventACK
	}
	return eventNone
}

// tcpTable is tcp_conntracks: the next state by direction, packet and state.
var tcpTable = func() (t [2][6][10]tcpState) {
	const (
		no, ss, sr, es, fw = tcpNone, tcpSynSent, tcpSynRecv, tcpEstablished, tcpFinWait
		cw, la, tw, cl, s2 = tcpCloseWait, tcpLastAck, tcpTimeWait, tcpClose, tcpSynSent2
		ig, iv             = tcpIgnored, tcpInvalid
	)
	none := [10]tcpState{iv, iv, iv, iv, iv, iv, iv, iv, iv, iv}
	rst := [10]tcpState{iv, cl, cl, cl, cl, cl, cl, cl, cl, cl}
	fin := [10]tcpState{iv, iv, fw, fw, la, la, la, tw, cl, iv}
	return [2][6][10]tcpState{
		{ // from the end that opened it
			{ss, ss, ig, ig, ig, ig, ig, ss, ss, s2},
			{iv, iv, sr, iv, iv, iv, iv, iv, iv, sr},
			fin,
			{es, iv, es, es, cw, cw, tw, tw, cl, iv},
			rst,
			none,
		},
		{ // from the other one
			{iv, s2, iv, iv, iv, iv, iv, ss, iv, s2},
			{iv, sr, ig, ig, ig, ig, ig, ig, ig, sr},
			fin,
			{iv, ig, sr, es, cw, cw, tw, tw, cl, ig},
			rst,
			none,
		},
	}
}()
