package daemon

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
)

// TestJournald has lines come to a socket like the journal's, and to standard
// error while there is none, as when it begins anew.
func TestJournald(t *testing.T) {
	t.Parallel()
	dir := lab.ShortDir(t)
	socket := filepath.Join(dir, "socket")
	stderr, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(stderr.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	stream := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	if w := Journald(stderr, "1:2", socket); w != io.Writer(stderr) {
		t.Error("another file is taken for the journal")
	}
	if w := Journald(stderr, "", socket); w != io.Writer(stderr) {
		t.Error("without systemd there is a journal")
	}
	w := Journald(stderr, stream, socket)
	log := newLogger(w, false)
	listen := func() net.PacketConn {
		c, err := net.ListenPacket("unixgram", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	receives := func(c net.PacketConn, want string) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(lab.LongPatience))
		b := make([]byte, 1<<16)
		n, _, err := c.ReadFrom(b)
		if got := string(b[:n]); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	log.Info("early")
	journal := listen()
	log.Info("banned by hand", "address", "203.0.113.7", "until", "forever", "reason", "a=b \"c\"\nMESSAGE=d")
	line := `level=INFO msg="banned by hand" address=203.0.113.7 until=forever reason="a=b \"c\"\nMESSAGE=d"`
	const head = "SYSLOG_IDENTIFIER=portmon\nMESSAGE="
	receives(journal, head+line+"\nPRIORITY=6\nPORTMON_EVENT=banned by hand\nPORTMON_ADDRESS=203.0.113.7\nPORTMON_UNTIL=forever\n"+
		"PORTMON_REASON\n\x11\x00\x00\x00\x00\x00\x00\x00a=b \"c\"\nMESSAGE=d\n")
	log.Warn("full", "offences", 3)
	receives(journal, head+"level=WARN msg=full offences=3\nPRIORITY=4\nPORTMON_EVENT=full\nPORTMON_OFFENCES=3\n")
	torn := `level=INFO msg=banned reason="` + strings.Repeat("x", 10)
	if _, err := w.Write([]byte(torn + "\n")); err != nil {
		t.Error(err)
	}
	receives(journal, head+torn+"\nPRIORITY=6\nPORTMON_EVENT=banned\n")
	journal.Close()
	os.Remove(socket)
	log.Info("meanwhile")
	journal = listen()
	log.Info("again")
	receives(journal, head+"level=INFO msg=again\nPRIORITY=6\nPORTMON_EVENT=again\n")
	const want = "level=INFO msg=early\nlevel=INFO msg=meanwhile\n"
	if text, err := os.ReadFile(stderr.Name()); err != nil || string(text) != want {
		t.Errorf("standard error has %q, %v, want %q", text, err, want)
	}
}
