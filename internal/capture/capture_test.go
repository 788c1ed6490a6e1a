package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/portmon/portmon/netnstest"
)

var (
	captured = time.Date(2026, 1, 9, 14, 13, 26, 123456000, time.UTC)
	ip4      = packet("192.0.2.7:1234", "203.0.113.10:23")
	ip6      = packet("[2001:db8::7]:1234", "[2001:db8:1::10]:23")
)

const (
	seen4 = "192.0.2.7 > 203.0.113.10, length 40, tos 0x0, ttl 64, id 0, +0, TCP 1234 > 23, seq 0, ack 0, window 64240, SYN"
	seen6 = "2001:db8::7 > 2001:db8:1::10, length 20, class 0x0, ttl 64, flow 0x0, TCP 1234 > 23, seq 0, ack 0, window 64240, SYN"
)

func packet(src, dst string) string {
	p := netnstest.SYN(netip.Addr{}, netip.MustParseAddrPort(dst))
	p.Src = netip.MustParseAddrPort(src)
	b, err := p.AppendBinary(nil)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// frames are packets in the headers of links, by hand.
var frames = []struct {
	link  layers.LinkType
	frame string
	want  string // before the packet, or "" if it is passed over
	ip    string
}{
	{1, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00" + ip4 + "padding", " ?: ", seen4},
	{1, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x08\x00" + ip4, " elsewhere: ", seen4},
	{1, "\x33\x33\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x86\xdd" + ip6, " elsewhere: ", seen6},
	{1, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x81\x00\x00\x07\x86\xdd" + ip6, " ?: ", seen6},
	{1, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\xa8\x00\x07\x81\x00\x00\x08\x08\x00" + ip4, " ?: ", seen4},
	{1, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x08\x06an ARP request", "", ""},
	{101, ip4, " ?: ", seen4},
	{101, ip6, " ?: ", seen6},
	{228, ip4, " ?: ", seen4},
	{0, "\x02\x00\x00\x00" + ip4, " ?: ", seen4},
	{0, "\x00\x00\x00\x02" + ip4, " ?: ", seen4},
	{0, "\x1e\x00\x00\x00" + ip6, " ?: ", seen6},
	{0, "\x07\x00\x00\x00" + ip6, "", ""},
	{108, "\x00\x00\x00\x18" + ip6, " ?: ", seen6},
	{113, "\x00\x00\x00\x01\x00\x06\x02\x00\x00\x00\x00\x02\x00\x00\x08\x00" + ip4, " received: ", seen4},
	{113, "\x00\x04\x00\x01\x00\x06\x02\x00\x00\x00\x00\x02\x00\x00\x86\xdd" + ip6, " sent: ", seen6},
	{113, "\x00\x01\x00\x01\x00\x06\x02\x00\x00\x00\x00\x02\x00\x00\x81\x00\x00\x07\x08\x00" + ip4, " elsewhere: ", seen4},
	{113, "\x00\x00\x03\x04\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00" + ip4, "lo received: ", seen4},
	{276, "\x08\x00\x00\x00\x00\x00\x00\x02\x00\x01\x00\x06\x02\x00\x00\x00\x00\x02\x00\x00" + ip4, " received: ", seen4},
	{276, "\x86\xdd\x00\x00\x00\x00\x00\x02\x00\x01\x04\x06\x02\x00\x00\x00\x00\x02\x00\x00" + ip6, " sent: ", seen6},
}

// Captures that another library writes, of each link, packed and not.
func TestCaptures(t *testing.T) {
	for _, tt := range frames {
		var want []string
		if tt.want != "" {
			want = []string{"2026-01-09T14:13:26.123456 " + tt.want + tt.ip}
		}
		for name, content := range map[string]string{
			"pcap": pcapOf(tt.link, tt.frame), "pcap of nanoseconds": pcapOfNanos(tt.link, tt.frame), "big-endian pcap": bigEndian(tt.link, tt.frame),
			"pcapng": pcapngOf(tt.link, tt.frame), "big-endian pcapng": bigEndianNG(tt.link, tt.frame),
		} {
			got := readAll(t, content)
			for i := range got { // how pcapgo calls the interface
				got[i] = strings.Replace(got[i], " intf0 ", "  ", 1)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s of link type %d: %q\n%q\nwant %q", name, tt.link, tt.frame, got, want)
			}
			if packed := readAll(t, packed(content)); len(packed) != len(want) {
				t.Errorf("%s of link type %d, in gzip: %q", name, tt.link, packed)
			}
		}
	}
}

// What is passed over says nothing of the packet behind it.
func TestPassedOver(t *testing.T) {
	arp := "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x08\x06an ARP request"
	unicast := "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00" + ip4
	for name, content := range map[string]string{"pcap": pcapOf(1, arp, unicast), "pcapng": bigEndianNG(1, arp, unicast)} {
		if got, want := readAll(t, content), []string{"2026-01-09T14:13:26.123456  ?: " + seen4}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func packed(content string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(content))
	w.Close()
	return b.String()
}

func info(frame string) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{Timestamp: captured, CaptureLength: len(frame), Length: len(frame)}
}

func pcapOf(link layers.LinkType, all ...string) string {
	var b bytes.Buffer
	writePcap(&b, pcapgo.NewWriter(&b), link, all)
	return b.String()
}

func pcapOfNanos(link layers.LinkType, all ...string) string {
	var b bytes.Buffer
	writePcap(&b, pcapgo.NewWriterNanos(&b), link, all)
	return b.String()
}

func writePcap(b *bytes.Buffer, w *pcapgo.Writer, link layers.LinkType, all []string) {
	err := w.WriteFileHeader(65535, link)
	for _, frame := range all {
		if err == nil {
			err = w.WritePacket(info(frame), []byte(frame))
		}
	}
	if err != nil {
		panic(err)
	}
}

func pcapngOf(link layers.LinkType, all ...string) string {
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, link)
	for _, frame := range all {
		if err == nil {
			err = w.WritePacket(info(frame), []byte(frame))
		}
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		panic(err)
	}
	return b.String()
}

// words writes numbers of 4 bytes.
func words(order binary.AppendByteOrder, all ...uint32) string {
	var b []byte
	for _, n := range all {
		b = order.AppendUint32(b, n)
	}
	return string(b)
}

func bigEndian(link layers.LinkType, all ...string) string {
	be := binary.BigEndian
	s := words(be, 0xa1b2c3d4, 2<<16|4, 0, 0, 0xffffffff, uint32(link))
	for _, frame := range all {
		s += words(be, uint32(captured.Unix()), 123456, uint32(len(frame)), uint32(len(frame))) + frame
	}
	return s
}

// block is a block of pcapng.
func block(order binary.AppendByteOrder, kind uint32, body string) string {
	body += strings.Repeat("\x00", -len(body)&3)
	length := words(order, uint32(len(body)+12))
	return words(order, kind) + length + body + length
}

func section(order binary.AppendByteOrder) string {
	return block(order, 0x0a0d0d0a, words(order, 0x1a2b3c4d, 1<<16, 0xffffffff, 0xffffffff))
}

func bigEndianNG(link layers.LinkType, all ...string) string {
	be := binary.BigEndian
	s := section(be) + block(be, 1, words(be, uint32(link)<<16, 0))
	for _, frame := range all {
		micros := uint64(captured.UnixMicro())
		s += block(be, 6, words(be, 0, uint32(micros>>32), uint32(micros), uint32(len(frame)), uint32(len(frame)))+frame)
	}
	return s
}

// A file says how long it is and how much of that was read.
func TestProgress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcap")
	content := pcapOf(101, slices.Repeat([]string{ip4}, 100_000)...)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	for ; ; n++ {
		if _, err = r.Read(); err != nil {
			break
		}
		if read, size := r.Progress(); n == 50_000 && (read < 1 || read >= size || size != int64(len(content))) {
			t.Errorf("%d bytes of %d were read, where the file has %d", read, size, len(content))
		}
	}
	if read, size := r.Progress(); n != 100_000 || read != size {
		t.Errorf("%d packets, %d bytes of %d, %v", n, read, size, err)
	}
	if _, err := Open(path + "x"); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.HasSuffix(err.Error(), "is a directory") {
		t.Error(fmt.Sprint(err))
	}
}

func BenchmarkRead(b *testing.B) {
	long := ip4 + strings.Repeat("x", 760)
	for _, bb := range []struct{ name, content string }{
		{"pcap of SYNs", pcapOf(101, slices.Repeat([]string{ip4}, 100_000)...)},
		{"pcap of 800 bytes", pcapOf(101, slices.Repeat([]string{long}, 10_000)...)},
		{"pcapng of SYNs", pcapngOf(101, slices.Repeat([]string{ip4}, 100_000)...)},
		{"log", strings.Repeat("Jan  9 14:13:20 host kernel: [   20.696792] "+line+"\n", 10_000)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.content)))
			for b.Loop() {
				r := open(b, bb.content)
				var err error
				for err == nil {
					_, err = r.Read()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}
