package nfnl

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// Without privilege, the kernel refuses a batch as a whole.
func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// TestExchangeLosesAnswers asks for more answers than the socket's buffer holds.
// Those that fit come, and the error tells that others do not.
func TestExchangeLosesAnswers(t *testing.T) {
	c, err := Dial(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadBuffer(1); err != nil { // the kernel takes its least
		t.Fatal(err)
	}
	exchange := func(n int) (got int, err error) {
		var b []byte
		for range n {
			// A message of no subsystem's, to which the answer is an error.
			b = binary.NativeEndian.AppendUint32(b, HeaderLen+GenHeaderLen)
			b = binary.NativeEndian.AppendUint16(b, 0xff<<8)
			b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
			b = append(b, make([]byte, 8+GenHeaderLen)...)
		}
		err = c.Exchange(func(m Message) error {
			if m.Type == unix.NLMSG_ERROR {
				got++
			}
			return nil
		}, b)
		return got, err
	}
	for range 3 {
		if got, err := exchange(1); got != 1 || err != nil {
			t.Errorf("a single question: %d answers, %v", got, err)
		}
		if got, err := exchange(100); got == 0 || got == 100 || !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("100 questions: %d answers, %v", got, err)
		}
	}
}
