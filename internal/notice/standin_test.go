package notice

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// standIn behaves as an ntfy server does, as far as its documentation and
// source say and notices need: what it takes from which headers, how it decodes
// them, what it refuses and in which words, and how a topic is polled. It is
// none: what is tested with it is tested with a real one too, but for headers
// in UTF-8, which only the real one takes as such.
type standIn struct {
	private bool // only tokens may use topics

	mu       sync.Mutex
	tokens   []string
	messages []message
}

func newStandIn(t *testing.T, private bool) *ntfyd {
	s := &standIn{private: private}
	grant := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		token := "tk_" + strings.ToLower(rand.Text())
		s.tokens = append(s.tokens, token)
		return token
	}
	d := &ntfyd{
		serve: func(addr string) {
			l, err := net.Listen("tcp4", addr)
			if err != nil {
				t.Fatal(err)
			}
			server := &httptest.Server{Listener: l, Config: &http.Server{Handler: s}}
			server.Start()
			t.Cleanup(server.Close)
		},
		grant: grant,
		revoke: func(token string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tokens = slices.DeleteFunc(s.tokens, func(have string) bool { return have == token })
		},
	}
	if private {
		d.reader = grant()
	}
	return d
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if status, code, text := s.admit(r.Header.Get("Authorization")); status != 0 {
		refuse(w, status, code, text)
		return
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

// admit returns how a request with this header is refused; 0 if it is not.
func (s *standIn) admit(authorization string) (status, code int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token, bearer := strings.CutPrefix(authorization, "Bearer ")
	switch {
	case bearer && slices.Contains(s.tokens, token):
		return 0, 0, ""
	case authorization != "":
		return http.StatusUnauthorized, 40101, "unauthorized"
	case s.private:
		return http.StatusForbidden, 40301, "forbidden"
	}
	return 0, 0, ""
}

func refuse(w http.ResponseWriter, status, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{
		"code": code, "http": status, "error": text, "link": "https://ntfy.sh/docs/publish/",
	})
}

func (s *standIn) publish(w http.ResponseWriter, r *http.Request, topic string) {
	priorities := map[string]int{
		"": 0, "1": 1, "min": 1, "2": 2, "low": 2, "3": 3, "default": 3, "4": 4, "high": 4, "5": 5, "max": 5,
		"urgent": 5,
	}
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
		refuse(w, 400, 40014, "invalid request: attachments not allowed")
		return
	}
	s.mu.Lock()
	s.messages = append(s.messages, m)
	s.mu.Unlock()
	json.NewEncoder(w).Encode(m)
}

// param returns a parameter by the first of its names that has a value, in the
// headers or, failing that, in the URL.
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

// latin1 returns a header as the standard has it: ntfy itself takes UTF-8, a
// proxy before it may not.
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
