package notice

import (
	"bufio"
	"encoding/json"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// serverVariable may hold the URL of an ntfy server that everybody may use, such as http://127.0.0.1:2586. The tests which need no more
// than that then run against it, and not against the stand-in.
const serverVariable = "PORTMON_TEST_NTFY"

// ntfyServer returns the URL of an ntfy server.
func ntfyServer(t *testing.T) string {
	if base := os.Getenv(serverVariable); base != "" {
		return strings.TrimSuffix(base, "/")
	}
	server := httptest.NewServer(new(standIn))
	t.Cleanup(server.Close)
	return server.URL
}

// message is a message as ntfy's subscribers get it.
type message struct {
	Event    string   `json:"event"`
	Topic    string   `json:"topic"`
	Title    string   `json:"title"`
	Message  string   `json:"message"`
	Priority int      `json:"priority"`
	Tags     []string `json:"tags"`
	// Attachment is what a message becomes that is too long.
	Attachment any `json:"attachment,omitempty"`
}

// standIn behaves as an ntfy server does, as far as its documentation and source say and notices need: what it takes from which headers,
// how it decodes them, what it refuses and in which words, and how a topic is polled. It is none: see serverVariable.
type standIn struct {
	token string // that topics take; without one everybody may use them

	mu       sync.Mutex
	messages []message
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.token != "" {
		switch r.Header.Get("Authorization") {
		case "Bearer " + s.token:
		case "":
			refuse(w, 403, 40301, "forbidden")
			return
		default:
			refuse(w, 401, 40101, "unauthorized")
			return
		}
	}
	topic, poll := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/json")
	switch {
	case poll && r.Method == http.MethodGet && r.URL.Query().Get("poll") == "1":
		s.poll(w, topic)
	case !poll && !strings.Contains(topic, "/") && (r.Method == http.MethodPost || r.Method == http.MethodPut):
		s.publish(w, r, topic)
	default:
		refuse(w, 404, 40401, "page not found")
	}
}

func refuse(w http.ResponseWriter, status, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"code": code, "http": status, "error": text, "link": "https://ntfy.sh/docs/publish/"})
}

func (s *standIn) publish(w http.ResponseWriter, r *http.Request, topic string) {
	priorities := map[string]int{"": 0, "1": 1, "min": 1, "2": 2, "low": 2, "3": 3, "default": 3, "4": 4, "high": 4, "5": 5, "max": 5, "urgent": 5}
	priority, ok := priorities[strings.ToLower(param(r, "x-priority", "priority", "prio", "p"))]
	if !ok {
		refuse(w, 400, 40007, "invalid priority parameter")
		return
	}
	m := message{Event: "message", Topic: topic, Title: param(r, "x-title", "title", "t"), Priority: priority}
	for tag := range strings.SplitSeq(param(r, "x-tags", "tags", "tag", "ta"), ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			m.Tags = append(m.Tags, tag)
		}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 4097))
	if err != nil {
		refuse(w, 400, 40000, "invalid request")
		return
	}
	m.Message = strings.TrimSpace(string(body))
	if len(body) > 4096 || !utf8.Valid(body) {
		m.Message, m.Attachment = "You received a file: attachment.txt", true
	}
	s.mu.Lock()
	s.messages = append(s.messages, m)
	s.mu.Unlock()
	json.NewEncoder(w).Encode(m)
}

// param returns a parameter by the first of its names that has a value, in the headers or, failing that, in the URL.
func param(r *http.Request, names ...string) string {
	for _, name := range names {
		value := latin1(r.Header.Get(name))
		if decoded, err := new(mime.WordDecoder).DecodeHeader(value); err == nil {
			value = decoded
		}
		if value = strings.TrimSpace(value); value != "" {
			return value
		}
	}
	for _, name := range names {
		if value := strings.TrimSpace(r.URL.Query().Get(name)); value != "" {
			return value
		}
	}
	return ""
}

// latin1 returns what a header means to who sticks to the letter: ntfy itself takes UTF-8, what stands before it may not.
func latin1(header string) string {
	var b strings.Builder
	for i := range len(header) {
		b.WriteRune(rune(header[i]))
	}
	return b.String()
}

func (s *standIn) poll(w http.ResponseWriter, topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		if m.Topic == topic {
			json.NewEncoder(w).Encode(m)
		}
	}
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

// lateListener returns an address where nobody listens, and a function that begins to. Nobody else can take the port meanwhile.
func lateListener(t *testing.T) (addr string, listen func() net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "late")
	t.Cleanup(func() { f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	local := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}
	return local.String(), func() net.Listener {
		if err := unix.Listen(fd, 16); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// eventually returns when a condition holds, which has no event to wait for: that of another process, or of counters.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in a minute, not: %s", what)
		}
	}
}
