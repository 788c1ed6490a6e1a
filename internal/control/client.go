package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/state"
)

// ErrNone tells that no watcher runs.
var ErrNone = errors.New("no watcher runs")

// Client talks to a watcher.
type Client struct {
	questions, orders http.Client
	first             chan net.Conn // the connection that there is, until the first request takes it
}

// Dial connects to a watcher. The error is [ErrNone] if there is none, and wraps [fs.ErrPermission] if that is not for us to know.
func Dial(path string) (*Client, error) {
	if len(path) > maxPath {
		return nil, ErrNone // nor can there be one
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTDIR) {
			return nil, ErrNone
		}
		return c, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &Client{first: make(chan net.Conn, 1)}
	c.first <- conn
	take := func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case conn := <-c.first:
			return conn, nil
		default:
			return dial(ctx)
		}
	}
	c.orders = http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: take}}
	c.questions = http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: take, ResponseHeaderTimeout: patience}}
	return c, nil
}

// timeout ends a request to a watcher that hangs. To save a million records takes some seconds, and so does reading them.
const timeout = time.Minute

// patience is how long an answer may take to begin. Whoever types `portmon list` while the watcher hangs waits for what the kernel
// knows anyway. A watcher that reads a table with a million bans is silent for a second or two.
const patience = 10 * time.Second

// Close ends the connection.
func (c *Client) Close() {
	c.orders.CloseIdleConnections()
	c.questions.CloseIdleConnections()
	select {
	case conn := <-c.first:
		conn.Close()
	default:
	}
}

// Status asks what the watcher tells of itself.
func (c *Client) Status() (s Status, err error) {
	err = c.do("ask the watcher how it is", http.MethodGet, statusPath, nil, &s)
	return s, err
}

// Save has the state file written.
func (c *Client) Save() error {
	return c.do("have the watcher save", http.MethodPost, savePath, nil, nil)
}

// Reload has the configuration read again. The error is what is wrong with it; the watcher goes on with the one that it has.
func (c *Client) Reload() error {
	return c.do("have the watcher read its configuration", http.MethodPost, reloadPath, nil, nil)
}

// Forgive makes the offences of sources count no more, and returns those that had any.
func (c *Client) Forgive(sources []netip.Prefix) (had []netip.Prefix, err error) {
	err = c.do("have the watcher forgive", http.MethodPost, forgivePath, sources, &had)
	return had, err
}

// Records returns what is remembered: of these sources, or of all if none are named.
func (c *Client) Records(of ...netip.Prefix) (h state.Header, recs []state.Record, err error) {
	const what = "ask the watcher what it remembers"
	query := url.Values{}
	for _, p := range of {
		query.Add("source", p.String())
	}
	body, err := c.request(http.MethodGet, recordsPath+"?"+query.Encode(), nil)
	if err != nil {
		return h, nil, fmt.Errorf("%s: %w", what, err)
	}
	defer body.Close()
	f, err := state.Read(body)
	if err != nil {
		return h, nil, fmt.Errorf("%s: %w", what, err)
	}
	for rec := range f.Records() {
		recs = append(recs, rec)
	}
	if r := f.Report(); r.Condition != state.Whole {
		r.Path = "of the watcher"
		return h, nil, fmt.Errorf("%s: %s", what, r)
	}
	return f.Header, recs, nil
}

// do sends in and receives out, either of which may be nil. what is how an error begins.
func (c *Client) do(what, method, path string, in, out any) error {
	body, err := c.request(method, path, in)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("%s: read the answer: %w", what, err)
	}
	return nil
}

// request returns the body of the answer.
func (c *Client) request(method, path string, in any) (io.ReadCloser, error) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequest(method, "http://watcher"+path, &body)
	if err != nil {
		return nil, err
	}
	client := &c.orders
	if method == http.MethodGet {
		client = &c.questions
	}
	resp, err := client.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return nil, failed.Err // what it says of a URL tells people nothing
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return nil, errors.New(strings.TrimSpace(string(text)))
}
