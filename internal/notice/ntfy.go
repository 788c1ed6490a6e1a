package notice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/text"
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

func newNtfy(topic, tokenFile string) *ntfy { return &ntfy{topic, tokenFile, newClient()} }

// newClient returns a client for a request now and then.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// With a notice a minute at most, an idle connection is often dead when it
	// is wanted again.
	transport.DisableKeepAlives = true
	transport.MaxResponseHeaderBytes = 64 << 10
	return &http.Client{
		Transport: transport,
		Timeout:   postTimeout,
		// A redirected POST mostly becomes a GET, and it would take the token
		// to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send posts a notice. The error shows neither the topic nor the token. It is a
// temporaryError if another attempt may succeed.
func (n *ntfy) send(ctx context.Context, what *notice) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.topic, strings.NewReader(what.message))
	if err != nil {
		return fmt.Errorf("post notice to ntfy: %w", withoutURL(err))
	}
	if err := n.post(req, what); err != nil {
		return fmt.Errorf("post notice to ntfy at %s://%s: %w", req.URL.Scheme, req.URL.Host, err)
	}
	return nil
}

func (n *ntfy) post(req *http.Request, what *notice) error {
	// The names with an X: Priority is a header of HTTP (RFC 9218), which
	// proxies set as they like. What is not ASCII is encoded as in mail (RFC
	// 2047), which ntfy decodes since version 2.4.
	req.Header.Set("X-Title", mime.QEncoding.Encode("utf-8", what.title))
	req.Header.Set("X-Priority", strconv.Itoa(what.priority))
	req.Header.Set("X-Tags", what.emoji+",portmon")
	secrets := []string{strings.TrimPrefix(req.URL.Path, "/")}
	if n.tokenFile != "" {
		token, err := readToken(n.tokenFile)
		if err != nil {
			return &temporaryError{error: err} // it may be about to be replaced
		}
		req.Header.Set("Authorization", "Bearer "+token)
		secrets = append(secrets, token)
	}
	return do(n.client, req, secrets...)
}

// do sends a request, and returns an error unless it is answered with success. It
// is a temporaryError if another attempt may succeed. The error shows none of the
// secrets, which servers and proxies quote.
func do(client *http.Client, req *http.Request, secrets ...string) error {
	quote := func(s string, limit int) string {
		for _, secret := range secrets {
			if secret != "" {
				s = strings.ReplaceAll(s, secret, "[hidden]")
			}
		}
		return clean(s, limit)
	}
	resp, err := client.Do(req)
	if err != nil {
		return &temporaryError{error: errors.New(quote(withoutURL(err).Error(), maxQuote))}
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // as much as there is
	if resp.StatusCode/100 == 3 {
		body = []byte("redirects are not followed") // it may show the topic
	}
	err = errors.New(text.Join(": ", "status "+quote(resp.Status, maxName), quote(string(body), maxQuote)))
	if code := resp.StatusCode; code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500 {
		after, _ := time.ParseDuration(resp.Header.Get("Retry-After") + "s") // 0 if it is a date
		return &temporaryError{err, after}
	}
	return err
}

// withoutURL returns an error of net/http without the URL.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// readToken returns the token in a file. The error names the file, and shows
// nothing of what is in it.
func readToken(path string) (string, error) {
	b, err := config.ReadFile(path, maxToken)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("read token %s: not a token: want one word of ASCII characters", path)
	}
	return token, nil
}
