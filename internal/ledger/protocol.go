package ledger

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// ProtocolName returns "tcp", "udp", the number of any other IP protocol, or "" for 0, which is one that is not known.
func ProtocolName(proto uint8) string {
	switch proto {
	case 0:
		return ""
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	default:
		return strconv.Itoa(int(proto))
	}
}
