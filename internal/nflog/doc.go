// Package nflog reads what nftables rules log to a netlink log group: for each packet the addresses, the ports, the interface
// and the time.
//
// [Conn] is the socket and [Message.Decode] reads one message; that is all there is. A group has one listener at a time. Without
// one, what rules log to it is lost, and packets fare as if there were one.
package nflog
