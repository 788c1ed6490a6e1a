package notice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// postTimeout covers an attempt from the look-up of the name to the last
	// byte of the answer.
	postTimeout = 20 * time.Second
	maxAnswer   = 4096 // bytes read of an answer
	maxQuote    = 300  // characters quoted of what a server said
	maxToken    = 4096 // bytes; ntfy's tokens have 32
)

// ntfy posts notices to a topic. No error shows its URL, because who knows the
// topic can read it.
type ntfy struct {
	topic, tokenFile string
	client           *http.Client
}

func newNtfy(topic, tokenFile string) *ntfy {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// With a notice a minute at most, an idle connection is often dead when it
	// is wanted again.
	transport.DisableKeepAlives = true
	transport.MaxResponseHeaderBytes = 64 << 10
	return &ntfy{topic, tokenFile, &http.Client{
		Transport: transport,
		Timeout:   postTimeout,
		// A redirected POST mostly becomes a GET, and it would take the token
		// to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// send posts a notice. The error shows neither the topic nor the token. It is a
// temporaryError if another attempt may succeed.
func (n *ntfy) send(ctx context.Context, what *notice) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.topic, strings.NewReader(what.message))
	if err != nil {
		return fmt.Errorf("post notice to ntfy: %w", withoutURL(err))
	}
	if err := n.post(req, what); err != nil {
		return fmt.Errorf("post notice to ntfy at %s: %w", origin(req.URL), err)
	}
	return nil
}

// origin returns a URL without the topic.
func origin(u *url.URL) string { return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() }

func (n *ntfy) post(req *http.Request, what *notice) error {
	// The names with an X: Priority is a header of HTTP (RFC 9218), which
	// proxies set as they like. What is not ASCII is encoded as in mail (RFC
	// 2047), which ntfy decodes since version 2.4.
	req.Header.Set("X-Title", mime.QEncoding.Encode("utf-8", what.title))
	req.Header.Set("X-Priority", strconv.Itoa(what.priority))
	req.Header.Set("X-Tags", what.emoji+",portmon")
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	req.Header.Set("User-Agent", "portmon")
	if n.tokenFile != "" {
		token, err := readToken(n.tokenFile)
		if err != nil {
			return &temporaryError{error: err} // it may be about to be replaced
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return &temporaryError{error: withoutURL(err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // as much as there is
	return refusal(resp, body)
}

// withoutURL returns an error of net/http without the URL, and printable: it
// may quote what a server sent.
func withoutURL(err error) error {
	message := err.Error()
	var e *url.Error
	if errors.As(err, &e) {
		message = e.Err.Error()
		if e.Timeout() {
			message = "no answer in time: " + message
		}
	}
	return errors.New(clean(message, maxQuote))
}

// refusal turns an answer other than success into an error.
func refusal(resp *http.Response, body []byte) error {
	var answer struct{ Error string } // what ntfy says
	if json.Unmarshal(body, &answer) != nil || answer.Error == "" {
		answer.Error = string(body)
	}
	code := resp.StatusCode
	if to, err := resp.Location(); err == nil && code/100 == 3 {
		answer.Error = "redirects to " + origin(to) + ", which is not followed"
	}
	status := strings.TrimSpace(fmt.Sprint("status ", code, " ", http.StatusText(code)))
	err := errors.New(join(status, clean(answer.Error, maxQuote)))
	if code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500 {
		return &temporaryError{err, retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	}
	return err
}

// retryAfter returns the time in a Retry-After header, which has seconds or a
// date; 0 if there is none.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// readToken returns the token in a file. The error names the file, and shows
// nothing of what is in it.
func readToken(path string) (string, error) {
	// Opening a named pipe that has no writer must not block.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("read token %s: not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	token := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return "", fmt.Errorf("read token: %w", err)
	case len(b) > maxToken:
		return "", fmt.Errorf("read token %s: longer than %d bytes", path, maxToken)
	case token == "":
		return "", fmt.Errorf("read token %s: empty", path)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("read token %s: not a token: it has white space or characters that are not ASCII", path)
	}
	return token, nil
}
