package control

import (
	"bufio"
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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/ruleset"
)

// Client talks to a watcher. Every question ends with an error soon if the
// watcher hangs, so that commands can go on without it.
type Client struct {
	socket string
	http   http.Client

	// How long most answers may take, and those for which the watcher has to
	// read or to write much.
	patience, longer time.Duration
}

// Dial looks for a watcher. The error is [ErrNone] if there is none, and wraps
// [fs.ErrPermission] if that is not for us to know.
func Dial(socket string) (*Client, error) {
	c := &Client{socket: socket, patience: 2 * time.Second, longer: 10 * time.Second}
	c.http.Transport = &http.Transport{
		DialContext:    func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		ReadBufferSize: 64 << 10, // many events, or rows, at a time
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, conn.Close()
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	d, err := folder.Open(filepath.Dir(c.socket))
	if err == nil {
		defer d.Close()
		var conn net.Conn
		if conn, err = d.Connect(ctx, filepath.Base(c.socket)); err == nil {
			return conn, nil
		}
	}
	for _, none := range []error{fs.ErrNotExist, unix.ENOTDIR, unix.ECONNREFUSED, folder.ErrNotSocket} {
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
	err = c.do("ask the watcher for its status", c.patience, http.MethodGet, StatusPath, nil, into(&s))
	return s, err
}

// Save returns when all that has happened until now is on the disk.
func (c *Client) Save() error {
	return c.do("have the watcher save", c.longer, http.MethodPost, SavePath, nil, done)
}

// Reload has the configuration read again. The error is what is wrong with it;
// the watcher goes on with the one that it has. applied what was applied just
// now, whose mode is that of the table from now on; if it is nil, the watcher looks
// at the table for that.
func (c *Client) Reload(applied *ruleset.Spec) error {
	path := ReloadPath
	if applied != nil {
		path += fmt.Sprintf("?observe=%t&keep=%t", applied.Observe, applied.KeepObserved)
	}
	return c.do("have the watcher read its configuration", c.longer, http.MethodPost, path, nil, done)
}

// Applying announces that the table is about to be changed: the watcher repairs
// nothing until the next [Client.Reload], or for ten seconds. What takes longer
// announces it again.
func (c *Client) Applying() error {
	return c.do("tell the watcher of the change", c.patience, http.MethodPost, ApplyingPath, nil, done)
}

// Removing announces that the table is about to be deleted: if that happens
// within ten seconds, the watcher does not make it again.
func (c *Client) Removing() error {
	return c.do("tell the watcher of the removal", c.patience, http.MethodPost, RemovingPath, nil, done)
}

// Swapping announces that the table is about to be put back as it was: the
// watcher neither changes nor reads anything until [Client.Swapped], or for a
// minute.
func (c *Client) Swapping() error {
	return c.do("tell the watcher that the table is put back", c.longer, http.MethodPost, SwappingPath, nil, done)
}

// Swapped reports that the table was put back as it was, and has that handle, 0
// if there is none. The watcher remembers these rows, and no others.
func (c *Client) Swapped(handle uint64, rows *book.Book) error {
	const what = "tell the watcher what was put back"
	var body bytes.Buffer
	here := book.Here(handle)
	here.Observe = rows.Observes()
	if err := book.Encode(&body, here, book.ReadClock(), rows.Rows()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	path := SwappedPath + "?table=" + strconv.FormatUint(handle, 10)
	return c.do(what, 3*c.longer, http.MethodPost, path, body.Bytes(), done) // all of it is sent first
}

// Drilling announces that sources are about to offend for a test: for ten
// seconds the watcher neither remembers nor reports what becomes of them.
func (c *Client) Drilling(sources ...netip.Prefix) error {
	return c.do("tell the watcher of the test", c.patience, http.MethodPost, DrillingPath, sources, done)
}

// Unbanned reports that prefixes were unbanned, each alone or with all that is
// within it: the watcher forgets them, on disk too if there is no error. It returns
// the sources of which something was remembered.
func (c *Client) Unbanned(alone bool, prefixes ...netip.Prefix) (had []netip.Prefix, err error) {
	path := UnbannedPath
	if alone {
		path += "?alone=true"
	}
	return c.forget(path, prefixes)
}

// Disallowed reports that the allowances of prefixes, and of all that is within
// them, have ended. It does what [Client.Unbanned] does.
func (c *Client) Disallowed(prefixes ...netip.Prefix) (had []netip.Prefix, err error) {
	return c.forget(DisallowedPath, prefixes)
}

// Share has the watcher tell the fleet of sources that were banned by hand. It
// returns those that it does; a fleet bans no others.
func (c *Client) Share(sources ...netip.Prefix) (shared []netip.Prefix, err error) {
	return c.forget(SharePath, sources)
}

// ReadFleet has the watcher find out anew to which fleet the host belongs, and
// whether that is off. It goes on with the configuration that it has.
func (c *Client) ReadFleet() error {
	return c.do("have the watcher look at its fleet", c.longer, http.MethodPost, FleetPath, nil, done)
}

func (c *Client) forget(path string, prefixes []netip.Prefix) (had []netip.Prefix, err error) {
	const request = 100_000 // fit into what the watcher reads
	for some := range slices.Chunk(prefixes, request) {
		var of []netip.Prefix
		if err := c.do("have the watcher forget", c.longer, http.MethodPost, path, some, into(&of)); err != nil {
			return had, err
		}
		had = append(had, of...)
	}
	return had, nil
}

// Book returns what is remembered: of these sources, or of all if none is
// named. Of more than maxRows rows, those that matter least are left out. The
// error wraps [ErrNone] if it is about another machine or network namespace.
func (c *Client) Book(maxRows int, sources ...netip.Prefix) (*book.Book, error) {
	const what = "ask the watcher what it remembers"
	query := url.Values{}
	for _, p := range sources {
		query.Add("source", p.String())
	}
	var b *book.Book
	err := c.do(what, c.patience, http.MethodGet, BookPath+"?"+query.Encode(), nil, func(answer io.Reader) (err error) {
		var report book.Report
		b, report, err = book.Decode(answer, book.Config{MaxRows: maxRows, Here: book.Here(0), Now: book.ReadClock()})
		if err == nil && (report.Missing || report.Torn || report.BadLines > 0) {
			err = errors.New("the answer is damaged")
		}
		if err == nil && report.Origin != nil {
			err = ErrNone
		}
		return err
	})
	return b, err
}

// Events calls receive with the last events, at most that many, each as a line of
// JSON that is good during the call. With follow it goes on with those that come,
// until ctx ends, for which the error is nil, or receive returns an error. The
// error is [ErrEnded] if the watcher ends.
func (c *Client) Events(ctx context.Context, last int, follow bool, receive func(line []byte) error) error {
	path, rest := EventsPath+"?last="+strconv.Itoa(last), c.longer
	if follow {
		path, rest = path+"&follow=true", 0
	}
	var refused error
	err := c.ask(ctx, "read the events of the watcher", c.patience, rest, http.MethodGet, path, nil, func(answer io.Reader) error {
		lines := bufio.NewScanner(answer)
		lines.Buffer(nil, maxEvent)
		for lines.Scan() {
			if refused = receive(lines.Bytes()); refused != nil {
				return refused
			}
		}
		return lines.Err()
	})
	switch {
	case refused != nil:
		return refused
	case ctx.Err() != nil:
		return nil
	case follow && (err == nil || errors.As(err, new(lostError)) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET)):
		return ErrEnded
	}
	return err
}

// maxEvent bounds an event in JSON, in bytes.
const maxEvent = 64 << 10

// maxAnswer bounds an answer in JSON, in bytes: a list of a million prefixes.
const maxAnswer = 64 << 20

// done reads an answer that says nothing more.
func done(io.Reader) error { return nil }

// into returns what reads an answer into v.
func into(v any) func(io.Reader) error {
	return func(answer io.Reader) error { return json.NewDecoder(io.LimitReader(answer, maxAnswer)).Decode(v) }
}

// do sends in, unless that is nil, and has read receive the answer, which must
// begin within patience. what is how an error begins.
func (c *Client) do(
	what string, patience time.Duration, method, path string, in any, read func(io.Reader) error,
) error {
	return c.ask(context.Background(), what, patience, c.longer, method, path, in, read)
}

// ask does the same until ctx ends. The answer must end within rest, unless that
// is 0.
func (c *Client) ask(
	ctx context.Context, what string, patience, rest time.Duration, method, path string, in any, read func(io.Reader) error,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(patience, func() { cancel(fmt.Errorf("no answer within %v", patience)) })
	defer timer.Stop()
	err := c.exchange(ctx, method, path, in, func(answer io.Reader) error {
		if timer.Stop(); rest > 0 {
			timer.Reset(rest) // a long answer begins soon, if the watcher does not hang
		}
		return read(answer)
	})
	var failed *url.Error
	if errors.As(err, &failed) {
		err = lostError{failed.Err} // without the URL, which means nothing to people
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// lostError is how a connection has ended before an answer came.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

func (c *Client) exchange(ctx context.Context, method, path string, in any, read func(io.Reader) error) error {
	body, ready := in.([]byte)
	if !ready {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://watcher"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return read(resp.Body)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	return errors.New(strings.TrimSpace(string(text)))
}
