package capture

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The formats are those of draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
// gopacket's pcapgo is not used: its errors do not say where in the file they
// occurred, it bounds a record only by what the file itself states and the
// number of interfaces not at all, and it would add 2 MB to the program.
const (
	pcapHeaderLen   = 24
	pcapRecordLen   = 16
	magicMicro      = 0xa1b2c3d4
	magicNano       = 0xa1b23c4d
	pcapMajor       = 2
	linkTypeOfField = 0xffff // the other bits describe frame checksums
)

// pcap reads the format of libpcap: a header, then records, with no mark by
// which to find the next one.
type pcap struct {
	in    *source
	order binary.ByteOrder
	unit  time.Duration // of the fractions of seconds
	link  link
}

func pcapOrder(head []byte) (binary.ByteOrder, time.Duration) {
	if len(head) < 4 {
		return nil, 0
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(head) {
		case magicMicro:
			return order, time.Microsecond
		case magicNano:
			return order, time.Nanosecond
		}
	}
	return nil, 0
}

func isPcap(head []byte) bool {
	order, _ := pcapOrder(head)
	return order != nil
}

// newPcap ignores the snap length in the header: many programs write a wrong
// one, and it would bound nothing.
func newPcap(in *source) (*pcap, error) {
	b, err := in.peek(pcapHeaderLen)
	if err != nil {
		return nil, fmt.Errorf("header of a capture: %w", err)
	}
	p := &pcap{in: in}
	p.order, p.unit = pcapOrder(b)
	if major := p.order.Uint16(b[4:]); major != pcapMajor {
		return nil, fmt.Errorf("version %d of pcap is not read, only %d", major, pcapMajor)
	}
	if p.link, err = linkOf(p.order.Uint32(b[20:]) & linkTypeOfField); err != nil {
		return nil, err
	}
	return p, in.skip(pcapHeaderLen)
}

func (f *pcap) read(p *Packet) error {
	for {
		f.in.start = f.in.next
		b, err := f.in.peek(pcapRecordLen)
		if err != nil {
			return err
		}
		seconds, fraction := f.order.Uint32(b), f.order.Uint32(b[4:])
		captured, length := f.order.Uint32(b[8:]), f.order.Uint32(b[12:])
		switch {
		case captured > maxRecord:
			return fmt.Errorf("a packet of %d bytes: the file is damaged from here on", captured)
		case captured == 0 && length == 0:
			return fmt.Errorf("a packet of no bytes: a hole in the file, which is damaged from here on")
		}
		n := pcapRecordLen + int(captured)
		if b, err = f.in.peek(n); err != nil {
			return err
		}
		if err := f.in.skip(n); err != nil {
			return err
		}
		p.Time = time.Unix(int64(seconds), int64(fraction)*int64(f.unit))
		if err := f.link(b[pcapRecordLen:], p); err != errNotIP {
			return err
		}
		*p = Packet{} // without what the skipped frame said
	}
}
