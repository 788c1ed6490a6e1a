package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
)

const (
	// askPatience bounds how long a hub may take to answer.
	askPatience = 5 * time.Second
	// maxWait is the longest time between two attempts to connect.
	maxWait = 5 * time.Second
)

// connect connects to the hub with the key of the host. What it waits for, then
// and whenever it connects again, is given up when ctx ends.
func (m *Member) connect(ctx context.Context, more ...nats.Option) (*nats.Conn, error) {
	pair, public, err := m.keys()
	if err != nil {
		return nil, err
	}
	options := []nats.Option{
		nats.Name("portmon " + m.Host), nats.Nkey(public, pair.Sign), nats.CustomInboxPrefix(wire.InboxPrefix(m.Host)),
		nats.Timeout(askPatience), nats.SetCustomDialer(dialer{ctx}), nats.SkipHostLookup(), nats.PingInterval(20 * time.Second), nats.MaxPingsOutstanding(2),
		// A cluster may know its servers by addresses that mean nothing here.
		nats.IgnoreDiscoveredServers(),
		nats.ReconnectBufSize(-1), // what cannot be sent now has a queue of ours
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}
	if strings.HasPrefix(m.URLs[0], "tls:") {
		options = append(options, nats.Secure(wire.ClientTLS(m.Pin)))
	}
	return nats.Connect(strings.Join(m.URLs, ","), append(options, more...)...)
}

// dialer connects until its context ends, and finds out the address by itself,
// which nats.go does without one. Then what it has connected ends as well.
type dialer struct{ ctx context.Context }

// Dial implements [nats.CustomDialer].
func (d dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: askPatience}).DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &endingConn{conn, context.AfterFunc(d.ctx, func() { conn.Close() })}, nil
}

// endingConn is a connection that ends with a context.
type endingConn struct {
	net.Conn
	forget func() bool
}

func (c *endingConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// forever are the options of a connection that is made again whenever it ends.
func forever(onChange func(err error)) []nats.Option {
	return []nats.Option{
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.NoCallbacksAfterClientClose(),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			d := min(maxWait, 250*time.Millisecond<<min(attempts, 5))
			return d/2 + rand.N(d/2) // not all hosts at once
		}),
		nats.ConnectHandler(func(*nats.Conn) { onChange(nil) }),
		nats.ReconnectHandler(func(*nats.Conn) { onChange(nil) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { onChange(errors.Join(errDisconnected, err)) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { onChange(err) }),
	}
}

var errDisconnected = errors.New("the connection has ended")

// ask puts a question to the hub, unless it could not be encoded.
func ask(ctx context.Context, nc *nats.Conn, subject string, question []byte, err error) (answer []byte, _ error) {
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, subject, question)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errors.New("no hub answers at the server")
	case err != nil:
		return nil, err
	}
	return reply.Data, nil
}

// ErrUnknownKey is the error for a key, or a token, that the hub does not know.
var ErrUnknownKey = nats.ErrAuthorization

// hello gives the hub a sign of life.
func hello(ctx context.Context, nc *nats.Conn, host string, h *wire.Hello) (answer wire.Answer, err error) {
	question, err := wire.Encode(h)
	reply, err := ask(ctx, nc, wire.HelloPrefix+host, question, err)
	if err == nil {
		err = wire.Decode(reply, &answer)
	}
	return answer, err
}

// Join has the host with a state file belong to a fleet: the hub knows it by a key
// that it makes for itself. The token is of no use then, but where the hub cannot
// change the users of its server. The key is on the disk before the hub hears of
// it, so that a full disk uses up no token.
func Join(ctx context.Context, t *wire.Token, state string) (answer wire.Answer, err error) {
	first := &Member{URLs: t.URLs, Host: t.Host, Pin: t.Pin, seed: t.Seed}
	nc, err := first.connect(ctx)
	if err != nil {
		return answer, fmt.Errorf("connect to %s: %w", strings.Join(t.URLs, ", "), err)
	}
	defer nc.Close()
	pair, err := nkeys.CreateUser()
	if err != nil {
		return answer, err
	}
	public, err := pair.PublicKey()
	if err != nil {
		return answer, err
	}
	seed, err := pair.Seed()
	if err != nil {
		return answer, err
	}
	own := *first
	own.seed = string(seed)
	if err := own.writeKey(state); err != nil {
		return answer, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(state))
		}
	}()
	var joined wire.Joined
	question, err := wire.Encode(&wire.Join{Key: public})
	reply, asked := ask(ctx, nc, wire.JoinPrefix+t.Host, question, err)
	if asked == nil {
		asked = wire.Decode(reply, &joined)
	}
	switch {
	case asked == nil && joined.Error != "":
		return answer, fmt.Errorf("the hub refuses: %s", joined.Error)
	case asked == nil && joined.Kept:
		own.seed = first.seed
		if err := own.writeKey(state); err != nil {
			return answer, err
		}
	}
	// The hub ends the connection of the old key, perhaps before its answer is
	// here: whether the new key is good tells.
	for {
		if answer, err = own.hello(ctx); err == nil {
			return answer, own.Write(state)
		}
		select {
		case <-ctx.Done():
			return answer, fmt.Errorf("join as %s: %w", t.Host, errors.Join(asked, err))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// hello gives the hub a sign of life by a connection of its own.
func (m *Member) hello(ctx context.Context) (answer wire.Answer, err error) {
	nc, err := m.connect(ctx)
	if err != nil {
		return answer, err
	}
	defer nc.Close()
	return hello(ctx, nc, m.Host, new(wire.Hello))
}
