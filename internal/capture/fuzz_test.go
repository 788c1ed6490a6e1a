package capture

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
)

// read checks what every file must bear, and returns what was read: it makes no
// difference in which pieces the file comes, and no packet or error comes of
// nothing.
func read(t *testing.T, content string) (all []string) {
	whole, err := newReader("file", strings.NewReader(content), changed)
	pieces, again := newReader("file", iotest.OneByteReader(strings.NewReader(content)), changed)
	if err != nil || again != nil {
		if err == nil || again == nil || err.Error() != again.Error() {
			t.Fatalf("%v; in pieces %v", err, again)
		}
		return nil
	}
	for n := 0; ; n++ {
		if n > len(content)+2 {
			t.Fatalf("%d reads of %d bytes", n, len(content))
		}
		p, err := whole.Read()
		q, again := pieces.Read()
		if err != nil && (again == nil || err.Error() != again.Error()) || err == nil && again != nil ||
			string(p.Data) != string(q.Data) || !p.Time.Equal(q.Time) || p.In != q.In || p.Path != q.Path || p.Accepted != q.Accepted {
			t.Fatalf("read %d: %+v, %v; in pieces %+v, %v", n, p, err, q, again)
		}
		switch {
		case err == nil:
			checkPacket(t, p)
			all = append(all, string(p.Data))
		case err == io.EOF:
			return all
		case strings.ContainsFunc(err.Error(), unicode.IsControl):
			t.Fatalf("read %d: %q", n, err)
		case !errors.As(err, new(*DamageError)):
			if _, next := whole.Read(); next != err {
				t.Fatalf("%v after %v", next, err)
			}
			return all
		}
	}
}

func checkPacket(t *testing.T, p Packet) {
	t.Helper()
	if len(p.Data) == 0 || p.Data[0]>>4 != 4 && p.Data[0]>>4 != 6 || p.Time.Year() < firstYear || p.Time.Year() > 2600 ||
		p.In != "" && (p.Path == Sent || deviceName([]byte(p.In)) != p.In) {
		t.Fatalf("%+v", p)
	}
}

func FuzzPcap(f *testing.F) {
	for _, tt := range frames {
		f.Add(pcapOf(tt.link, tt.frame, tt.frame)[20:], false)
		f.Add(bigEndian(tt.link, tt.frame, tt.frame)[20:], true)
	}
	f.Fuzz(func(t *testing.T, rest string, big bool) {
		if big {
			read(t, words(be, magicMicro, 2<<16|4, 0, 0, 0)+rest)
		} else {
			read(t, words(le, magicNano, 4<<16|2, 0, 0, 0)+rest)
		}
	})
}

func FuzzPcapng(f *testing.F) {
	for _, tt := range frames {
		f.Add(pcapngOf(tt.link, tt.frame, tt.frame))
		f.Add(bigEndianNG(tt.link, tt.frame, tt.frame))
	}
	f.Fuzz(func(t *testing.T, content string) { read(t, ngMagic+strings.TrimPrefix(content, ngMagic)) })
}

// FuzzLine checks, besides, that nothing comes of lines that others than the
// kernel have written.
func FuzzLine(f *testing.F) {
	for _, tt := range lines {
		f.Add(tt.line)
	}
	for _, tt := range fields {
		f.Add("Jan  9 14:13:26 host kernel: " + tt.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		read(t, "Jan  9 14:13:20 host kernel: x\n"+line)
		if all := read(t, "Jan  9 14:13:20 host sshd[1]: user "+strings.ReplaceAll(line, "\n", "")+" failed"); len(all) != 0 {
			t.Errorf("%q", all)
		}
	})
}

func FuzzExport(f *testing.F) {
	f.Add("__CURSOR=1\n__REALTIME_TIMESTAMP=1767968006123456\n_TRANSPORT=kernel\nMESSAGE=" + synFields + "\n\n")
	f.Add("__CURSOR=1\nMESSAGE\n\x09\x00\x00\x00\x00\x00\x00\x00 SRC=1\nxx\n\n")
	f.Fuzz(func(t *testing.T, content string) { read(t, "__"+strings.TrimPrefix(content, "__")) })
}
