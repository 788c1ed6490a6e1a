package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
)

// Client talks to a watcher. Every question ends with an error soon if the
// watcher hangs, so that commands can go on without it.
type Client struct {
	socket string
	http   http.Client

	// How long a watcher may be silent: with most answers, and with those for
	// which it has to write to the disk or to read files.
	patience, longer time.Duration
}

// Dial looks for a watcher. The error is [ErrNone] if there is none, and wraps
// [fs.ErrPermission] if that is not for us to know.
func Dial(socket string) (*Client, error) {
	c := &Client{socket: socket, patience: 2 * time.Second, longer: 10 * time.Second}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) }}
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, conn.Close()
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	d, err := openFolder(c.socket)
	if err == nil {
		defer d.Close()
		var conn net.Conn
		if conn, err = d.connect(ctx, filepath.Base(c.socket)); err == nil {
			return conn, nil
		}
	}
	for _, none := range []error{fs.ErrNotExist, unix.ENOTDIR, unix.ECONNREFUSED, errNotSocket} {
		if errors.Is(err, none) {
			return nil, ErrNone
		}
	}
	return nil, fmt.Errorf("connect to %s: %w", c.socket, err)
}

// Close ends the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks what the watcher says of itself.
func (c *Client) Status() (s Status, err error) {
	err = c.do("ask the watcher how it is", c.patience, http.MethodGet, StatusPath, nil, &s)
	return s, err
}

// Save returns when all that has happened until now is on the disk.
func (c *Client) Save() error {
	return c.do("have the watcher save", c.longer, http.MethodPost, SavePath, nil, nil)
}

// Reload has the configuration read again. The error is what is wrong with it;
// the watcher goes on with the one that it has.
func (c *Client) Reload() error {
	return c.do("have the watcher read its configuration", c.longer, http.MethodPost, ReloadPath, nil, nil)
}

// Applying tells the watcher that the table is about to be changed: it repairs
// nothing until the next [Client.Reload], or for ten seconds.
func (c *Client) Applying() error {
	return c.do("tell the watcher of the change", c.patience, http.MethodPost, ApplyingPath, nil, nil)
}

// Removing tells the watcher that the table is about to be deleted: within ten
// seconds it is not made again.
func (c *Client) Removing() error {
	return c.do("tell the watcher of the removal", c.patience, http.MethodPost, RemovingPath, nil, nil)
}

// Unbanned tells the watcher that prefixes, and all within them, were unbanned:
// they are forgotten. It returns the sources of which something was remembered.
func (c *Client) Unbanned(prefixes ...netip.Prefix) (had []netip.Prefix, err error) {
	err = c.do("have the watcher forget", c.longer, http.MethodPost, UnbannedPath, prefixes, &had)
	return had, err
}

// Book returns what is remembered: of these sources, or of all if none is named.
func (c *Client) Book(sources ...netip.Prefix) (*book.Book, error) {
	const what = "ask the watcher what it remembers"
	query := url.Values{}
	for _, p := range sources {
		query.Add("source", p.String())
	}
	body, err := c.request(c.patience, http.MethodGet, BookPath+"?"+query.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer body.Close()
	b, report, err := book.Decode(body, book.Config{MaxRows: math.MaxInt32, Here: book.Here(0), Now: book.ReadClock()})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case report.Missing || report.Torn || report.BadLines > 0:
		return nil, fmt.Errorf("%s: the answer is damaged", what)
	}
	return b, nil
}

// do sends in and receives out, either of which may be nil. what is how an error
// begins.
func (c *Client) do(what string, patience time.Duration, method, path string, in, out any) error {
	body, err := c.request(patience, method, path, in)
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
func (c *Client) request(patience time.Duration, method, path string, in any) (io.ReadCloser, error) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, err
		}
	}
	a := &answer{patience: patience}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	a.timer = time.AfterFunc(patience, func() {
		a.cancel(fmt.Errorf("no answer within %v", patience))
	})
	req, err := http.NewRequestWithContext(a.ctx, method, "http://watcher"+path, &body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	a.timer.Stop()
	if err != nil {
		return nil, a.explain(err)
	}
	if a.body = resp.Body; resp.StatusCode == http.StatusOK {
		return a, nil
	}
	defer a.Close()
	text, err := io.ReadAll(io.LimitReader(a, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return nil, errors.New(strings.TrimSpace(string(text)))
}

// answer is the body of one, which ends with an error if the watcher hangs.
type answer struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	patience time.Duration
	body     io.ReadCloser
}

func (a *answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.patience)
	defer a.timer.Stop()
	n, err := a.body.Read(p)
	if err != nil && err != io.EOF {
		err = a.explain(err)
	}
	return n, err
}

func (a *answer) Close() error {
	defer a.cancel(nil)
	return a.body.Close()
}

// explain returns why a request failed.
func (a *answer) explain(err error) error {
	if cause := context.Cause(a.ctx); cause != nil {
		return cause
	}
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err // what it says of a URL tells people nothing
	}
	return err
}
