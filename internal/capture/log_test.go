package capture

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// changed is when the files of these tests were changed last.
var changed = time.Date(2026, 1, 10, 12, 0, 0, 0, time.UTC)

// open reads a file that was changed then, in a place where it is UTC.
func open(t testing.TB, content string) *Reader {
	t.Helper()
	r, err := newReader("file", strings.NewReader(content), changed)
	if err != nil {
		t.Fatalf("%.80q: %v", content, err)
	}
	if l, ok := r.format.(*log); ok {
		l.clock.zone = time.UTC
	}
	return r
}

// readAll describes the packets of a file, and the damage and the error between
// them.
func readAll(t testing.TB, content string) []string {
	t.Helper()
	r := open(t, content)
	var all []string
	for {
		p, err := r.Read()
		if err == io.EOF {
			return all
		}
		if err == nil {
			all = append(all, describe(p))
			continue
		}
		all = append(all, err.Error())
		if !errors.As(err, new(*DamageError)) {
			return all
		}
	}
}

// describe says what another decoder sees in a packet.
func describe(p Packet) string {
	path := [...]string{"?", "received", "sent", "forwarded", "elsewhere"}[p.Path]
	verdict := ""
	if p.Accepted {
		verdict = ", accepted"
	}
	s := fmt.Sprintf("%s %s %s%s:", p.Time.UTC().Format("2006-01-02T15:04:05.999999"), p.In, path, verdict)
	kind := layers.LayerTypeIPv4
	if p.Data[0]>>4 == 6 {
		kind = layers.LayerTypeIPv6
	}
	for _, layer := range gopacket.NewPacket(p.Data, kind, gopacket.Default).Layers() {
		switch l := layer.(type) {
		case *layers.IPv4:
			s += fmt.Sprintf(" %v > %v, length %d, tos %#x, ttl %d, id %d, %s+%d, %s", l.SrcIP, l.DstIP, l.Length, l.TOS, l.TTL, l.Id, l.Flags, l.FragOffset, l.Protocol)
		case *layers.IPv6:
			s += fmt.Sprintf(" %v > %v, length %d, class %#x, ttl %d, flow %#x, %s", l.SrcIP, l.DstIP, l.Length, l.TrafficClass, l.HopLimit, l.FlowLabel, l.NextHeader)
		case *layers.TCP:
			s += fmt.Sprintf(" %d > %d, seq %d, ack %d, window %d,", l.SrcPort, l.DstPort, l.Seq, l.Ack, l.Window)
			for _, flag := range []struct {
				set  bool
				name string
			}{{l.CWR, "CWR"}, {l.ECE, "ECE"}, {l.URG, "URG"}, {l.ACK, "ACK"}, {l.PSH, "PSH"}, {l.RST, "RST"}, {l.SYN, "SYN"}, {l.FIN, "FIN"}} {
				if flag.set {
					s += " " + flag.name
				}
			}
		case *layers.UDP:
			s += fmt.Sprintf(" %d > %d, %d bytes", l.SrcPort, l.DstPort, l.Length)
		case *layers.ICMPv4:
			s += fmt.Sprintf(" type %d, code %d, id %d, seq %d", l.TypeCode.Type(), l.TypeCode.Code(), l.Id, l.Seq)
		case *layers.ICMPv6:
			s += fmt.Sprintf(" type %d, code %d", l.TypeCode.Type(), l.TypeCode.Code())
		}
	}
	return s
}

const (
	synFields = "IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 SRC=192.0.2.7 DST=203.0.113.10 LEN=40 TOS=0x00 PREC=0x00 TTL=239 ID=54321 PROTO=TCP SPT=51605 DPT=2323 WINDOW=1024 RES=0x00 SYN URGP=0 "
	syn       = "192.0.2.7 > 203.0.113.10, length 40, tos 0x0, ttl 239, id 54321, +0, TCP 51605 > 2323, seq 0, ack 0, window 1024, SYN"
)

const line = "[UFW BLOCK] " + synFields

// lines are of the same packet, as each program writes it.
var lines = []struct{ name, line, want string }{
	{"ufw.log", "Dec 31 23:59:58 host kernel: [   20.696792] " + line, "2025-12-31T23:59:58"},
	{"the new year", "Jan  1 00:00:01 host kernel: [   23.696792] " + line, "2026-01-01T00:00:01"},
	{"29 February", "Feb 29 12:00:00 host kernel: " + line, "2024-02-29T12:00:00"},
	{"rsyslog", "2026-01-09T14:13:26.123456+01:00 host kernel: [   20.696792] " + line, "2026-01-09T13:13:26.123456"},
	{"RFC 3339", "2026-01-09T14:13:26Z host kernel: " + line, "2026-01-09T14:13:26"},
	{"CRLF", "2026-01-09T14:13:26Z host kernel: " + line + "\r", "2026-01-09T14:13:26"},
	{"priority", "<4>Jan  9 14:13:26 host kernel: " + line, "2026-01-09T14:13:26"},
	{"BusyBox", "Jan  9 14:13:26 host kern.warn kernel: [   20.696792] " + line, "2026-01-09T14:13:26"},
	{"logread", "Fri Jan  9 14:13:26 2026 kern.warn kernel: [   20.696792] " + line, "2026-01-09T14:13:26"},
	{"journalctl", "Jan 09 14:13:26 host kernel: " + line, "2026-01-09T14:13:26"},
	{"journalctl of late in a month", "Dec 20 14:13:26 host kernel: " + line, "2025-12-20T14:13:26"},
	{"journalctl -o short-precise", "Jan 09 14:13:26.123456 host kernel: " + line, "2026-01-09T14:13:26.123456"},
	{"journalctl -o short-iso", "2026-01-09T14:13:26+0100 host kernel: " + line, "2026-01-09T13:13:26"},
	{"journalctl -o short-iso-precise", "2026-01-09T14:13:26.123456+01:00 host kernel: " + line, "2026-01-09T13:13:26.123456"},
	{"journalctl -o short-full", "Fri 2026-01-09 14:13:26 UTC host kernel: " + line, "2026-01-09T14:13:26"},
	{"journalctl -o short-unix", "1767968006.123456 host kernel: " + line, "2026-01-09T14:13:26.123456"},
	{"journalctl -o short-monotonic", "[   20.696792] host kernel: " + line, "2026-01-10T12:00:00"},
	{"journalctl -o json", `{"_TRANSPORT":"kernel","__REALTIME_TIMESTAMP":"1767968006123456","MESSAGE":"` + line + `"}`, "2026-01-09T14:13:26.123456"},
	{"journalctl -o json-sse", `data: {"__REALTIME_TIMESTAMP":"1767968006123456","_TRANSPORT":"kernel","MESSAGE":"` + line + `"}`, "2026-01-09T14:13:26.123456"},
	{"journalctl -o json-seq", "\x1e" + `{"__REALTIME_TIMESTAMP":"1767968006123456","_TRANSPORT":"kernel","MESSAGE":"` + line + `"}`, "2026-01-09T14:13:26.123456"},
	{"journalctl -o export", "__CURSOR=s=1;i=2\n__REALTIME_TIMESTAMP=1767968006123456\n_TRANSPORT=kernel\nMESSAGE=" + line + "\n", "2026-01-09T14:13:26.123456"},
	{"dmesg", "[   20.696792] " + line, "2026-01-10T12:00:00"},
	{"dmesg --raw", "<4>[   20.696792] " + line, "2026-01-10T12:00:00"},
	{"dmesg -T", "[Fri Jan  9 14:13:26 2026] " + line, "2026-01-09T14:13:26"},
	{"dmesg --time-format iso", "2026-01-09T14:13:26,123456+00:00 " + line, "2026-01-09T14:13:26.123456"},
}

func TestLines(t *testing.T) {
	const received = "eth0 received: " + syn
	for _, tt := range lines {
		if got := readAll(t, tt.line+"\n"); len(got) != 1 || got[0] != tt.want+" "+received {
			t.Errorf("%s: %q\n%q\nwant %s %s", tt.name, tt.line, got, tt.want, received)
		}
	}
}

// fields are what the kernel says of packets, and what they become.
var fields = []struct{ line, want string }{
	{synFields, "eth0 received: " + syn},
	{"[UFW ALLOW] " + synFields, "eth0 received, accepted: " + syn},
	{"net-fw_ACCEPT: " + synFields, "eth0 received, accepted: " + syn},
	{"NOT-ALLOWED: " + synFields, "eth0 received: " + syn},
	{"DISALLOWED " + synFields, "eth0 received: " + syn},
	{"[UFW LIMIT BLOCK] " + synFields, "eth0 received: " + syn},
	{"FINAL_REJECT: " + synFields, "eth0 received: " + syn},
	{"Shorewall:net-fw:DROP:" + synFields, "eth0 received: " + syn},
	{"Firewall: *TCP_IN Blocked* " + synFields, "eth0 received: " + syn},
	{"iptables denied: " + synFields, "eth0 received: " + syn},
	{"IN=x OUT-" + synFields, "eth0 received: " + syn},
	{"[UFW BLOCK] IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 SRC=192.0.2.7 DST=203.0.113.10 LEN=52 TOS=0x08 PREC=0x20 TTL=48 ID=1 DF PROTO=TCP SPT=443 DPT=50000 SEQ=4294967295 ACK=7 WINDOW=65535 RES=0x00 ECE URG ACK PSH RST FIN URGP=0 OPT (0101080A) UID=0 GID=0 MARK=0x1 ",
		"eth0 received: 192.0.2.7 > 203.0.113.10, length 52, tos 0x28, ttl 48, id 1, DF+0, TCP 443 > 50000, seq 4294967295, ack 7, window 65535, ECE URG ACK PSH RST FIN"},
	{"[UFW BLOCK] IN=eth0 OUT= MAC=ff:ff:ff:ff:ff:ff:52:54:00:65:43:21:08:00 SRC=0.0.0.0 DST=255.255.255.255 LEN=328 TOS=0x00 PREC=0x00 TTL=64 ID=0 PROTO=UDP SPT=68 DPT=67 LEN=308 ",
		"eth0 elsewhere: 0.0.0.0 > 255.255.255.255, length 328, tos 0x0, ttl 64, id 0, +0, UDP 68 > 67, 308 bytes"},
	{"IN=eth0 OUT= MACSRC=52:54:00:65:43:21 MACDST=33:33:00:00:00:01 MACPROTO=0800 " + synFields[strings.Index(synFields, "SRC="):], "eth0 elsewhere: " + syn},
	{"[UFW BLOCK] IN=eth0 OUT=docker0 MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 SRC=192.0.2.7 DST=172.17.0.2 LEN=60 TOS=0x00 PREC=0x00 TTL=53 ID=7 DF PROTO=TCP SPT=40000 DPT=5432 WINDOW=64240 RES=0x00 SYN URGP=0 ",
		"eth0 forwarded: 192.0.2.7 > 172.17.0.2, length 60, tos 0x0, ttl 53, id 7, DF+0, TCP 40000 > 5432, seq 0, ack 0, window 64240, SYN"},
	{"[UFW BLOCK] IN= OUT=eth0 SRC=203.0.113.10 DST=192.0.2.7 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=0 DF PROTO=TCP SPT=22 DPT=40000 WINDOW=0 RES=0x00 ACK RST URGP=0 ",
		" sent: 203.0.113.10 > 192.0.2.7, length 40, tos 0x0, ttl 64, id 0, DF+0, TCP 22 > 40000, seq 0, ack 0, window 0, ACK RST"},
	{"IN=eth0 OUT= MAC= SRC=192.0.2.7 DST=203.0.113.10 LEN=84 TOS=0x00 PREC=0x00 TTL=53 ID=9 DF PROTO=ICMP TYPE=8 CODE=0 ID=77 SEQ=3 ",
		"eth0 received: 192.0.2.7 > 203.0.113.10, length 84, tos 0x0, ttl 53, id 9, DF+0, ICMPv4 type 8, code 0, id 77, seq 3"},
	// An ICMP error quotes another packet, which is not this one.
	{"IN=eth0 OUT= MAC= SRC=192.0.2.1 DST=203.0.113.10 LEN=56 TOS=0x00 PREC=0xC0 TTL=250 ID=9 PROTO=ICMP TYPE=3 CODE=1 [SRC=203.0.113.10 DST=198.51.100.9 LEN=60 TOS=0x00 PREC=0x00 TTL=1 ID=4 DF PROTO=TCP SPT=5 DPT=6 WINDOW=7 RES=0x00 SYN URGP=0 ] ",
		"eth0 received: 192.0.2.1 > 203.0.113.10, length 56, tos 0xc0, ttl 250, id 9, +0, ICMPv4 type 3, code 1, id 0, seq 0"},
	{"IN=eth0 OUT= MAC= SRC=192.0.2.7 DST=203.0.113.10 LEN=1500 TOS=0x00 PREC=0x00 TTL=53 ID=9 MF FRAG:185 PROTO=TCP ",
		"eth0 received: 192.0.2.7 > 203.0.113.10, length 1500, tos 0x0, ttl 53, id 9, MF+185, TCP"},
	{"IN=eth0 OUT= MAC= SRC=192.0.2.7 DST=203.0.113.10 LEN=28 TOS=0x00 PREC=0x00 TTL=53 ID=9 PROTO=TCP INCOMPLETE [8 bytes] ",
		"eth0 received: 192.0.2.7 > 203.0.113.10, length 28, tos 0x0, ttl 53, id 9, +0, TCP"},
	{"IN=eth0 OUT= MAC=01:00:5e:00:00:01:52:54:00:65:43:21:08:00 SRC=192.0.2.1 DST=224.0.0.1 LEN=32 TOS=0x00 PREC=0xC0 TTL=1 ID=0 DF PROTO=2 ",
		"eth0 elsewhere: 192.0.2.1 > 224.0.0.1, length 32, tos 0xc0, ttl 1, id 0, DF+0, IGMP"},
	{"[UFW BLOCK] IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:86:dd SRC=2001:0db8:0000:0000:0000:0000:0000:0007 DST=2001:0db8:0001:0000:0000:0000:0000:0010 LEN=60 TC=40 HOPLIMIT=56 FLOWLBL=123456 PROTO=TCP SPT=1234 DPT=23 WINDOW=64800 RES=0x00 SYN URGP=0 ",
		"eth0 received: 2001:db8::7 > 2001:db8:1::10, length 20, class 0x28, ttl 56, flow 0x1e240, TCP 1234 > 23, seq 0, ack 0, window 64800, SYN"},
	{"IN=eth0 OUT= MAC= SRC=2001:0db8:0000:0000:0000:0000:0000:0007 DST=2001:0db8:0001:0000:0000:0000:0000:0010 LEN=1280 TC=0 HOPLIMIT=56 FLOWLBL=0 OPT ( FRAG:0 INCOMPLETE ID:00000001 ) PROTO=UDP SPT=53 DPT=4000 LEN=2000 ",
		"eth0 received: 2001:db8::7 > 2001:db8:1::10, length 1240, class 0x0, ttl 56, flow 0x0, UDP 53 > 4000, 2000 bytes"},
	{"IN=eth0 OUT= MAC= SRC=fe80:0000:0000:0000:0000:0000:0000:0001 DST=ff02:0000:0000:0000:0000:0000:0000:0001 LEN=104 TC=0 HOPLIMIT=255 FLOWLBL=0 PROTO=ICMPv6 TYPE=134 CODE=0 ",
		"eth0 received: fe80::1 > ff02::1, length 64, class 0x0, ttl 255, flow 0x0, ICMPv6 type 134, code 0"},
}

func TestFields(t *testing.T) {
	for _, tt := range fields {
		want := "2026-01-09T14:13:26 " + tt.want
		if got := readAll(t, "Jan  9 14:13:26 host kernel: "+tt.line+"\n"); len(got) != 1 || got[0] != want {
			t.Errorf("%s\n%q\nwant %s", tt.line, got, want)
		}
	}
}

// TestLongField has a field that is longer than a line may be in an entry of the
// journal, the rest of which is read.
func TestLongField(t *testing.T) {
	entry := "__REALTIME_TIMESTAMP=1767968006123456\n_TRANSPORT=kernel\nX=" + strings.Repeat("x", maxLine) + "\nMESSAGE=" + line + "\n\n"
	want := "2026-01-09T14:13:26.123456 eth0 received: " + syn
	if got := readAll(t, "__CURSOR=s=1;i=2\n"+entry); len(got) != 1 || got[0] != want {
		t.Errorf("got %.200q\nwant %q", got, want)
	}
}

// Lines of others, and of the kernel about other things, are passed over. What a
// stranger chose, such as a name to log in with, is never taken for a packet.
func TestOtherLines(t *testing.T) {
	others := []string{
		"Jan  9 14:13:26 host systemd[1]: Started a unit.",
		"Jan  9 14:13:26 host kernel: eth0: link up",
		"Jan  9 14:13:26 host sshd[7]: Invalid user x kernel: [UFW BLOCK] " + synFields + " from 192.0.2.9 port 4",
		"2026-01-09T14:13:26Z host sshd[7]: Invalid user kernel: " + synFields,
		"Jan  9 14:13:26 host kernel: [UFW AUDIT] " + synFields,
		"Jan  9 14:13:26 host kernel: TRACE: raw:PREROUTING:policy:2 " + synFields,
		"Jan  9 14:13:26 host kernel: a story about IN=eth0 SRC= DST= and PROTO=",
		"Jan  9 14:13:26 host kernel: " + strings.Repeat("x", 129) + synFields,
		`{"__REALTIME_TIMESTAMP":"1767968006123456","_TRANSPORT":"syslog","SYSLOG_IDENTIFIER":"kernel","MESSAGE":"` + synFields + `"}`,
		"-- Boot 0123456789abcdef0123456789abcdef --",
		"",
	}
	for _, line := range others {
		if got := readAll(t, "Jan  9 14:13:25 host systemd[1]: first\n"+line+"\n"); len(got) != 0 {
			t.Errorf("%s: %q", line, got)
		}
	}
}

// Lines of the kernel about packets that cannot be used are damage, which is
// named with its line; the next line is read.
func TestDamagedLines(t *testing.T) {
	const start = "Jan  9 14:13:26 host kernel: "
	replace := func(old, new string) string { return start + strings.Replace(synFields, old, new, 1) }
	tests := []struct{ line, want string }{
		{start + synFields[:len(synFields)-len("SYN URGP=0 ")], "the line ends within what is logged of a packet"},
		{start + synFields[:strings.Index(synFields, "PROTO")], "the line ends within what is logged of a packet"},
		{replace("SRC=192.0.2.7", "SRC=192.0.2.256"), "a packet that is logged with SRC=192.0.2.256: not an address"},
		{replace("SRC=192.0.2.7", "SRC=\x1b[2Jx"), "a packet that is logged with SRC=\ufffd[2Jx: not an address"},
		{replace("SRC=192.0.2.7", "SRC=fe80::1%eth0"), "a packet that is logged with SRC=fe80::1%eth0: not an address"},
		{replace("SRC=192.0.2.7", "SRC=2001:db8::1"), `a packet that is logged from "2001:db8::1" to "203.0.113.10"`},
		{replace("DPT=2323", "DPT=65536"), "a packet that is logged with DPT=65536: value out of range"},
		{replace("TTL=239", "TTL=-1"), "a packet that is logged with TTL=-1: invalid syntax"},
		{replace("PROTO=TCP", "PROTO=TCQ"), "a packet that is logged with PROTO=TCQ: not a protocol"},
		{replace("IN=eth0", "IN=\x1b]0;x"), `a packet of the interface "\x1b]0;x"`},
		{replace("IN=eth0", "IN=a_name_of_16_byte"), `a packet of the interface "a_name_of_16_byte"`},
		{"2026-01-09T14:13:26 host kernel: " + synFields, "no recognised time at the beginning of the line"},
		{"9999-01-09T14:13:26Z host kernel: " + synFields, "no recognised time at the beginning of the line"},
		{"Jan 32 14:13:26 host kernel: " + synFields, "no recognised time at the beginning of the line"},
		{"kernel: " + synFields, "no recognised time at the beginning of the line"},
		{`{"MESSAGE":"` + synFields, "an entry of the journal: unexpected end of JSON input"},
		{`{"_TRANSPORT":"kernel","__REALTIME_TIMESTAMP":"9223372036854775807","MESSAGE":" SRC="}`, `an entry of the journal with the time "9223372036854775807"`},
		{strings.Repeat("x", maxLine), "a line of 65537 bytes, more than the 65536 that are read"},
		{strings.Repeat("\x00", 2*bufferSize), "a line of 1048577 bytes, more than the 65536 that are read"},
		{"Jan  5 14:13:26 host kernel: " + synFields, "packets are out of order: time goes back by 4d to 2026-01-05T14:13:26Z"},
	}
	for _, tt := range tests {
		got := readAll(t, "Jan  9 14:13:20 host kernel: "+synFields+"\n"+tt.line+"\nJan  9 14:13:27 host kernel: "+synFields+"\n")
		if want := "file, line 2: " + tt.want; len(got) != 3 || got[1] != want {
			t.Errorf("%.200q:\n%q\nwant %s", tt.line, got, want)
		}
	}
}

// What is out of order is a packet all the same.
func TestDisorderHasThePacket(t *testing.T) {
	r := open(t, "Jan  9 14:13:20 host kernel: "+synFields+"\nJan  5 14:13:26 host kernel: "+synFields+"\n")
	if _, err := r.Read(); err != nil {
		t.Fatal(err)
	}
	p, err := r.Read()
	if !errors.Is(err, ErrDisorder) || len(p.Data) == 0 || p.Time.Day() != 5 {
		t.Errorf("got %v and error %v, want the packet of the 5th, and disorder", p, err)
	}
}

// Local time goes back once a year, which is no reason to stop; nor does time go
// back for who reads.
func TestTimeStandsStill(t *testing.T) {
	got := readAll(t, "Jan  9 14:13:20 host kernel: "+synFields+"\nJan  9 13:13:21 host kernel: "+synFields+"\n")
	if want := "2026-01-09T14:13:20 eth0 received: " + syn; len(got) != 2 || got[0] != want || got[1] != want {
		t.Errorf("%q", got)
	}
}
