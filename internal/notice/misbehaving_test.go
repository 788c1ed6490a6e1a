package notice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

const secret = "tk_secretsecretsecretsecretsecr"

// post posts a notice to a server, with a token, and returns the error.
func post(t *testing.T, ctx context.Context, server string, change func(*ntfy)) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	client := newNtfy(server+"/secret-topic", file)
	if change != nil {
		change(client)
	}
	n := composed(banned(host(1), 23))
	err := client.send(ctx, n)
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows a secret: %v", err)
	}
	return err
}

// Each answer, what is told of it, and whether there is another try.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const malformed = `net/http: HTTP/1.x transport connection broken: malformed HTTP response "\x1b[31m`
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string // of the error; "" for none
		again  bool
		after  time.Duration
	}{
		{"200", func(http.ResponseWriter, *http.Request) {}, "", false, 0},
		{"201", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }, "", false, 0},
		{
			"400", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 400, 40007, "invalid priority parameter") },
			"status 400 Bad Request: " + `{"code":40007,"error":"invalid priority parameter","http":400,"link":"https://ntfy.sh/docs/publish/"}`, false, 0,
		},
		{
			"403", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, 40301, "forbidden") },
			"status 403 Forbidden: " + `{"code":40301,"error":"forbidden","http":403,"link":"https://ntfy.sh/docs/publish/"}`, false, 0,
		},
		{"404, not of ntfy", http.NotFound, "status 404 Not Found: 404 page not found", false, 0},
		{"408", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(408) }, "status 408 Request Timeout", true, 0},
		{"429", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "77")
			refuse(w, 429, 42901, "limit reached: too many requests")
		}, "status 429 Too Many Requests: " + `{"code":42901,"error":"limit reached: too many requests","http":429,"link":"https://ntfy.sh/docs/publish/"}`, true, 77 * time.Second},
		{
			"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
			"status 500 Internal Server Error", true, 0,
		},
		{"503", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "soon")
			http.Error(w, "<h1>\x1b[31mBusy\r\n</h1>", http.StatusServiceUnavailable)
		}, "status 503 Service Unavailable: <h1>�[31mBusy  </h1>", true, 0},
		{"599", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(599) }, "status 599 status code 599", true, 0},
		{"a long text", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, strings.Repeat("x", 10_000), http.StatusTeapot)
		}, "status 418 I'm a teapot: " + strings.Repeat("x", maxQuote) + "…", false, 0},
		{
			"a long error",
			func(w http.ResponseWriter, _ *http.Request) { refuse(w, 418, 0, strings.Repeat("é", 1000)) },
			`status 418 I'm a teapot: {"code":0,"error":"` + strings.Repeat("é", maxQuote-19) + "…", false, 0,
		},
		{
			"a redirect to nowhere", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) },
			"status 302 Found: redirects are not followed", false, 0,
		},
		{"no HTTP", func(w http.ResponseWriter, _ *http.Request) {
			conn := hijack(w)
			defer conn.Close()
			fmt.Fprintf(conn, "\x1b[31m%s\r\n\r\n", strings.Repeat("y", 2000))
		}, malformed + strings.Repeat("y", maxQuote-len(malformed)) + "…", true, 0},
		{"what it was sent", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, r.URL.Path+" is not for "+r.Header.Get("Authorization"), http.StatusForbidden)
		}, "status 403 Forbidden: /[hidden] is not for Bearer [hidden]", false, 0},
		{"what it was sent, and no HTTP", func(w http.ResponseWriter, r *http.Request) {
			conn := hijack(w)
			defer conn.Close()
			fmt.Fprintf(conn, "%s\r\n\r\n", r.Header.Get("Authorization"))
		}, `net/http: HTTP/1.x transport connection broken: malformed HTTP status code "[hidden]"`, true, 0},
		{"nothing", func(w http.ResponseWriter, _ *http.Request) { hijack(w).Close() }, "EOF", true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tt.answer)
			defer server.Close()
			err := post(t, t.Context(), server.URL, nil)
			got := ""
			if err != nil {
				got = strings.TrimPrefix(err.Error(), "post notice to ntfy at "+server.URL+": ")
			}
			var again *temporaryError
			if got != tt.want || errors.As(err, &again) != tt.again || tt.again && again.after != tt.after {
				t.Errorf("got  %s\nwant %s\nagain %+v", got, tt.want, again)
			}
		})
	}
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	return conn
}

// A redirect is not followed, neither to another server nor to the same: its
// target would get the token.
func TestRedirect(t *testing.T) {
	t.Parallel()
	for _, code := range []int{301, 302, 303, 307, 308} {
		var followed atomic.Int32
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
		defer other.Close()
		for _, to := range []string{other.URL + "/secret-topic", "/secret-elsewhere"} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/secret-topic" {
					followed.Add(1)
					return
				}
				http.Redirect(w, r, to, code)
			}))
			err := post(t, t.Context(), server.URL, nil)
			var again *temporaryError
			want := fmt.Sprintf("status %d %s: redirects are not followed", code, http.StatusText(code))
			if err == nil || !strings.HasSuffix(err.Error(), want) || errors.As(err, &again) {
				t.Errorf("got %v, want %s", err, want)
			}
			server.Close()
		}
		if n := followed.Load(); n > 0 {
			t.Errorf("%d: followed %d times", code, n)
		}
	}
}

// A server that accepts and says nothing, one that begins to answer and goes on
// for ever, and one that stops in the middle of it.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status  int
		body    string // once, or for ever
		loop    bool
		timeout time.Duration
		want    string
	}{
		"silent": {0, "", false, 2 * time.Second, "context deadline exceeded (Client.Timeout exceeded"},
		"stops":  {500, "oh", false, 5 * time.Second, "status 500 Internal Server Error: oh"},
		"endless": {
			500, strings.Repeat("z", 1000), true, postTimeout,
			"status 500 Internal Server Error: " + strings.Repeat("z", maxQuote) + "…",
		},
		"endless, and content": {200, strings.Repeat("z", 1000), true, postTimeout, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			left := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(left)
				_, _ = io.Copy(io.Discard, r.Body) // before that, the end of the connection goes unseen
				if tt.status != 0 {
					w.WriteHeader(tt.status)
				}
				for r.Context().Err() == nil && tt.status != 0 {
					if _, err := w.Write([]byte(tt.body)); err != nil {
						return
					}
					w.(http.Flusher).Flush()
					if !tt.loop {
						break
					}
				}
				<-r.Context().Done()
			}))
			defer server.Close()
			begin := time.Now()
			err := post(t, t.Context(), server.URL, func(n *ntfy) {
				if n.client.Timeout != postTimeout {
					t.Errorf("the time to answer is %v", n.client.Timeout)
				}
				n.client.Timeout = tt.timeout
			})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), ": "+tt.want)) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if tt.loop && time.Since(begin) >= postTimeout {
				t.Error("read to the end of time")
			}
			<-left // the connection was closed
		})
	}
}

// A server that hangs is not in the way of the command, nor of the end.
func TestIndependent(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	s, _, end := run(t, setup{ntfy: server.URL + "/topic", command: []string{lab.Program(t, "true")}, window: time.Millisecond})
	tell(s, banned(host(1), 23))
	<-asked
	lab.Await(t, "a command ran", func() bool { return s.Stats()["command"].Sent == 1 }) // or one would tell of both
	tell(s, banned(host(2), 23))
	lab.Await(t, "two commands ran", func() bool { return s.Stats()["command"].Sent == 2 })
	if got := s.Stats()["ntfy"]; got != (Stats{}) {
		t.Errorf("%+v", got)
	}
	end()
	if got := s.Stats()["ntfy"]; got.Sent != 0 || got.Failed == 0 {
		t.Errorf("%+v", got)
	}
}
