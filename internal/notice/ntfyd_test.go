package notice

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"
)

// ntfyd is an ntfy server of one kind or another.
type ntfyd struct {
	serve  func(addr string)  // begins to, and returns once it does
	grant  func() string      // returns a new token that may publish
	revoke func(token string) // takes it back
	reader string             // a token that may read; "" if everybody may
}

// servers make servers of each kind, which either everybody or only tokens may
// use.
var servers = map[string]func(t *testing.T, private bool) *ntfyd{"stand-in": newStandIn, "ntfy": newRealNtfy}

// eachServer runs a test with a server of each kind, which does not serve yet,
// and an address for it.
func eachServer(t *testing.T, private bool, test func(t *testing.T, d *ntfyd, addr string)) {
	t.Parallel()
	for kind, make := range servers {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := make(t, private)
			test(t, d, reserve(t))
		})
	}
}

// message is a message as ntfy's subscribers get it.
type message struct {
	Event    string   `json:"event"`
	Topic    string   `json:"topic"`
	Title    string   `json:"title"`
	Message  string   `json:"message"`
	Priority int      `json:"priority"`
	Tags     []string `json:"tags"`
}

// poll returns the messages of a topic.
func poll(t *testing.T, topic, token string) []message {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, topic+"/json?poll=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("poll %s: %s", topic, resp.Status)
	}
	var messages []message
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("poll %s: %v: %s", topic, err, lines.Bytes())
		}
		messages = append(messages, m)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return messages
}

// reserve returns an address of this host without a listener. A socket that
// never listens keeps it until the end of the test: others can still bind this
// very port, but none gets it by asking for any port.
func reserve(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}).String()
}
