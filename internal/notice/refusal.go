package notice

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxSaid is how many characters are quoted of what a server or a program said.
const maxSaid = 300

// StatusError means that a server did not accept a notice.
type StatusError struct {
	Code int    // of HTTP
	Said string // by the server, as printable text; it may be empty
}

func (e *StatusError) Error() string {
	text := http.StatusText(e.Code)
	return strings.TrimSpace(fmt.Sprintf("status %d %s", e.Code, text)) + optional(": ", e.Said)
}

// refusal turns an answer other than success into an error, a *tryAgain if the
// server may do better later.
func refusal(resp *http.Response, body []byte) error {
	err := &StatusError{Code: resp.StatusCode, Said: said(body)}
	switch code := resp.StatusCode; {
	case code/100 == 3:
		if to, bad := resp.Location(); bad == nil {
			// The path may hold a topic.
			server := url.URL{Scheme: to.Scheme, Host: to.Host}
			err.Said = printable("redirects to "+server.String()+", which is not followed", maxSaid)
		}
		return err
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return &tryAgain{err: err, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	default:
		return err
	}
}

// said returns what a server said: ntfy the value of "error" in an object,
// others a text.
func said(body []byte) string {
	var answer struct{ Error string }
	if json.Unmarshal(body, &answer) == nil && answer.Error != "" {
		return printable(answer.Error, maxSaid)
	}
	return printable(string(body), maxSaid)
}

// retryAfter returns the time in the header of that name: seconds, or a date.
// It is 0 if there is none.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
