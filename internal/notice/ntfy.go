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
)

const (
	// postTimeout is how long one try may take, from the look-up of the name to
	// the last byte of the answer.
	postTimeout = 20 * time.Second
	// maxAnswer is how many bytes are read of an answer.
	maxAnswer = 4096
)

// ntfy sends notices to a topic.
type ntfy struct {
	topic, server string // URLs; the second is without the topic, for errors
	tokenFile     string
	client        *http.Client
}

func newNtfy(topic *url.URL, tokenFile string) *ntfy {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// There is a notice a minute at most: a connection that is kept so long is
	// one that is lost half of the time.
	transport.DisableKeepAlives = true
	transport.MaxResponseHeaderBytes = 64 << 10
	server := url.URL{Scheme: topic.Scheme, Host: topic.Host}
	return &ntfy{
		topic: topic.String(), server: server.String(), tokenFile: tokenFile,
		client: &http.Client{
			Transport: transport,
			Timeout:   postTimeout,
			// A redirected POST becomes a GET as a rule, and its token would go
			// to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// send posts a notice. Neither the topic nor the token is in the error, which
// is a *tryAgain if the fault may pass.
func (n *ntfy) send(ctx context.Context, what *notice) error {
	if err := n.post(ctx, what); err != nil {
		return fmt.Errorf("post notice to ntfy at %s: %w", n.server, err)
	}
	return nil
}

func (n *ntfy) post(ctx context.Context, what *notice) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.topic, strings.NewReader(what.message))
	if err != nil {
		return withoutURL(err)
	}
	n.setHeaders(req.Header, what)
	if n.tokenFile != "" {
		token, err := readToken(n.tokenFile)
		if err != nil {
			return &tryAgain{err: err} // it may be about to be replaced
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return &tryAgain{err: withoutURL(err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what there is of it
	return refusal(resp, body)
}

// setHeaders sets what ntfy wants to know besides the message. The names are
// those with an X, as Priority is a header of HTTP by now (RFC 9218), which
// proxies set as they like. What is not ASCII is encoded as in mail (RFC 2047);
// ntfy decodes it since its version 2.4.
func (n *ntfy) setHeaders(h http.Header, what *notice) {
	h.Set("X-Title", mime.QEncoding.Encode("utf-8", what.title))
	h.Set("X-Priority", strconv.Itoa(what.priority))
	h.Set("X-Tags", strings.Join(what.tags, ","))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("User-Agent", "portmon")
}

// withoutURL returns the cause of an error of net/http, which as a rule says
// the URL before it.
func withoutURL(err error) error {
	var e *url.Error
	switch {
	case !errors.As(err, &e):
		return &legibleError{err}
	case e.Timeout():
		return &legibleError{fmt.Errorf("no answer in time: %w", e.Err)}
	default:
		return &legibleError{e.Err}
	}
}

// legibleError is an error with a text that may hold whatever a server has
// sent.
type legibleError struct{ err error }

func (e *legibleError) Error() string { return printable(e.err.Error(), maxSaid) }
func (e *legibleError) Unwrap() error { return e.err }
