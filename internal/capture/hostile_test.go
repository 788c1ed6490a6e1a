package capture

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var le = binary.LittleEndian

// Captures that are damaged, or made to do harm. What follows the damage is
// read, if it is known where that begins.
func TestDamagedCaptures(t *testing.T) {
	one := "2026-01-09T14:13:26.123456  ?: " + seen4
	pcap := pcapOf(101, ip4)
	record := pcap[24:]
	header := func(words_ ...uint32) string { return words(le, words_...) }
	ng := section(le) + block(le, 1, header(101, 0))
	ngPacket := block(le, 6, header(0, 0, 0, 40, 40)+ip4)
	ngOne := "1970-01-01T00:00:00  ?: " + seen4
	option := func(code, length uint32, value string) string { return header(length<<16|code) + value }
	tests := []struct {
		name, content string
		want          []string
	}{
		{"cut within a packet", pcap + record[:30], []string{one, "file, offset 80: the file ends within this record"}},
		{"cut within the header of a record", pcap + record[:9], []string{one, "file, offset 80: the file ends within this record"}},
		{"gzip that was cut", packed(pcap + record)[:60], []string{"file, offset 24: the file ends within this record"}},
		{"a packet of another version", pcap + pcapOf(101, "\x75bc")[24:] + record, []string{one, "file, offset 80: an IP packet of version 7", one}},
		{"a packet without a header", pcap + pcapOf(101, "")[24:32] + header(0, 9) + record, []string{one, "file, offset 80: a frame that ends within its header", one}},
		{"a packet of 4 GB", pcap + header(1, 2, 0xffffffff, 0xffffffff) + record, []string{one, "read file, offset 80: a packet of 4294967295 bytes: the file is damaged from here on"}},
		{"a hole", pcap + strings.Repeat("\x00", 1<<16), []string{one, "read file, offset 80: a packet of no bytes: a hole in the file, which is damaged from here on"}},
		{"a frame that is cut", pcapOf(1, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08"), []string{"file, offset 24: a frame that ends within its header"}},
		{"VLAN tags without end", pcapOf(1, strings.Repeat("\x81\x00\x81\x00", 100)), []string{"file, offset 24: a frame that ends within its header"}},
		{"no packets", pcap[:24], nil},

		{"no packets in pcapng", ng, nil},
		{"a block that is cut", ng + ngPacket[:20], []string{"file, offset 48: the file ends within this record"}},
		{"a block of 8 bytes", ng + header(6, 8, 8, 8), []string{"read file, offset 48: a block of 8 bytes: the file is damaged from here on"}},
		{"a block of 4 GB", ng + header(6, 0xfffffffc, 0, 0), []string{"read file, offset 48: a block of 4294967292 bytes: the file is damaged from here on"}},
		{"a block of two lengths", ng + ngPacket[:len(ngPacket)-4] + header(16), []string{"read file, offset 48: a block of 72 or 16 bytes: the file is damaged from here on"}},
		{"a section of no byte order", ng + header(0x0a0d0d0a, 28, 1, 2), []string{"read file, offset 48: a section of unknown byte order: the file is damaged from here on"}},
		{"a section that changes the byte order", ng + bigEndianNG(101, ip4), []string{one}},
		{"a section that knows no interface", ng + section(le) + ngPacket, []string{"file, offset 76: a packet of interface 0, of which the file has said nothing"}},
		{"a large block of another kind", ng + block(le, 5, strings.Repeat("x", 3*bufferSize)) + ngPacket, []string{ngOne}},
		{"a large packet", ng + block(le, 6, strings.Repeat("x", 3*bufferSize)) + ngPacket, []string{"file, offset 48: a packet in a block of 1572876 bytes", ngOne}},
		{"a packet larger than its block", ng + block(le, 6, header(0, 0, 0, 41, 41)+ip4) + ngPacket, []string{"file, offset 48: a packet of 41 bytes in a block that has 40", ngOne}},
		{"a packet block that is short", ng + block(le, 6, header(0, 0)) + ngPacket, []string{"file, offset 48: a frame that ends within its header", ngOne}},
		{"a packet without a time", ng + block(le, 3, header(40)+ip4) + ngPacket, []string{"file, offset 48: a packet without a time", ngOne}},
		{"a packet of another age", ng + block(le, 6, header(0, 0xffffffff, 0, 40, 40)+ip4) + ngPacket, []string{"file, offset 48: a packet of the year 2242 or later", ngOne}},
		{"an interface of a link that is not read", section(le) + block(le, 1, header(189, 0)) + ngPacket,
			[]string{`file, offset 28: a capture of link type 189 is not read: capture Ethernet, raw IP, or Linux's "any"`}},
		{"a clock that is too fine", section(le) + block(le, 1, header(101, 0)+option(9, 1, "\xc0\x00\x00\x00")) + ngPacket,
			[]string{"file, offset 28: an interface whose clock has the resolution 0xc0"}},
		{"a clock of 2^-20 and a name", section(le) + block(le, 1, header(101, 0)+option(2, 4, "ppp0")+option(9, 1, "\x94\x00\x00\x00")) +
			block(le, 6, header(0, 0, 3<<19, 40, 40)+ip4+option(2, 4, header(2|1<<2))),
			[]string{"1970-01-01T00:00:01.5  sent: " + seen4}},
		{"a time offset, and a packet received", section(le) + block(le, 1, header(101, 0)+option(2, 4, "ppp0")+option(14, 8, header(3600, 0))) +
			block(le, 6, header(0, 0, 0, 40, 40)+ip4+option(2, 4, header(1|1<<2))) + block(le, 6, header(0, 0, 0, 40, 40)+ip4+option(2, 4, header(1|3<<2))),
			[]string{"1970-01-01T01:00:00 ppp0 received: " + seen4, "1970-01-01T01:00:00 ppp0 elsewhere: " + seen4}},
		{"a name that is none", section(le) + block(le, 1, header(101, 0)+option(2, 4, "\x1b[2J")) + ngPacket, []string{ngOne}},
		{"options longer than their block", section(le) + block(le, 1, header(101, 0)+option(2, 4000, "ppp0")) + ngPacket, []string{ngOne}},
		{"interfaces without end", section(le) + strings.Repeat(block(le, 1, header(101, 0)), maxInterfaces+1),
			[]string{"read file, offset 81948: more than 4096 interfaces"}},

		{"an export that is cut", "__CURSOR=1\nMESSAGE= SRC=", []string{"file, line 3: the file ends within this record"}},
		{"a field of an export that is cut", "__CURSOR=1\nMESSAGE\n\x09\x00\x00\x00\x00\x00\x00\x00x", []string{"file, line 2: the file ends within this record"}},
		{"a field of 16 EB", "__CURSOR=1\nMESSAGE\n" + strings.Repeat("\xff", 8), []string{"read file, line 2: a field of 18446744073709551615 bytes: the file is damaged from here on"}},
		{"a field that is no text", "__REALTIME_TIMESTAMP=1767968006000000\nCOREDUMP\n" + string(le.AppendUint64(nil, 1<<20)) + strings.Repeat("\n", 1<<20) +
			"\n_TRANSPORT=kernel\nMESSAGE\n" + string(le.AppendUint64(nil, uint64(len(synFields)+2))) + "\n " + synFields + "\n\n",
			[]string{"2026-01-09T14:13:26 eth0 received: " + syn}},
		{"an empty file", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := readAll(t, tt.content)
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("%q\nwant %q", got, tt.want)
			}
		})
	}
}

// What is no file of a kind that is read is said at once.
func TestOpenRefuses(t *testing.T) {
	const neither = "neither a capture (pcap, pcapng) nor a log with times: it begins with "
	for content, want := range map[string]string{
		"\x7fELF\x02\x01\x01\x00":                            neither + `"\x7fELF\x02\x01\x01\x00"`,
		"root:x:0:0:root:/root:/bin/bash\n":                  neither + `"root:x:0:0:root:"`,
		"[UFW BLOCK] " + synFields + "\n":                    neither + `"[UFW BLOCK] IN=e"`,
		"\x1b]0;title\x07\n":                                 neither + `"\x1b]0;title\a\n"`,
		strings.Repeat("\x00", 1<<17):                        neither + `"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`,
		"\x1f\x8bx":                                          "unexpected EOF",
		pcapOf(101)[:20]:                                     "header of a capture: the file ends within this record",
		bigEndian(189):                                       `a capture of link type 189 is not read: capture Ethernet, raw IP, or Linux's "any"`,
		words(le, 0xa1b2c3d4, 4<<16|1, 0, 0, 0, 1):           "version 1 of pcap is not read, only 2",
		words(le, 0xa1b2cd34, 4<<16|2, 0, 0, 0, 1):           neither + `"4Ͳ\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00"`,
		packed("PK\x03\x04 a zip file in a gzip file\n\x00"): neither + `"PK\x03\x04 a zip file "`,
	} {
		if _, err := newReader("file", strings.NewReader(content), changed); err == nil || err.Error() != want {
			t.Errorf("%.40q: %v\nwant %s", content, err, want)
		}
	}
}

// Memory does not grow with a file, whatever it has: holes of 10 GB, lines
// without end, packed ones too.
func TestMemoryIsBounded(t *testing.T) {
	const line = "Jan  9 14:13:20 host kernel: "
	sparse := func(head string, size int64) *Reader {
		path := filepath.Join(t.TempDir(), "sparse")
		if err := os.WriteFile(path, []byte(head), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	const long, hole = 40 << 20, 10 << 30
	tests := []struct {
		name    string
		r       *Reader
		packets int
		err     string // of the last Read, or "" for io.EOF
	}{
		{"pcap", sparse(pcapOf(101, ip4, ip4), hole), 2, "offset 136: a packet of no bytes"},
		{"pcapng", sparse(pcapngOf(101, ip4), hole), 1, "a block of 0 bytes"},
		{"a log", sparse(line+synFields+"\n"+line, long), 1, ""},
		{"a line of many words", open(t, line+synFields+strings.Repeat("IN= SRC= ", long/9)), 0, ""},
		{"packed", open(t, packed(line+synFields+"\n"+strings.Repeat("\x00", long))), 1, ""},
	}
	for _, tt := range tests {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		packets := 0
		var last error
		for reads := 0; reads < 10 && last != io.EOF && tt.r.err == nil; reads++ {
			if _, last = tt.r.Read(); last == nil {
				packets++
			}
		}
		runtime.ReadMemStats(&after)
		if tt.err == "" && last != io.EOF || !strings.Contains(last.Error(), tt.err) || packets != tt.packets {
			t.Errorf("%s: %d packets, want %d: %v", tt.name, packets, tt.packets, last)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", tt.name, grown)
		}
	}
}
