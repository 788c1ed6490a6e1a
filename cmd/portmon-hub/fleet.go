package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/portmon/portmon/cmd/portmon-hub/judge"
	"github.com/portmon/portmon/internal/fleet/wire"
)

// fleet is a connection to the server that has the streams.
type fleet struct {
	nc *nats.Conn
	js jetstream.JetStream
	// inlets are where hubs publish what goes to a stream. A client can have the
	// server publish for it by the subject that it wants an answer on; so hosts
	// must not know a subject that a stream of the hubs listens to. Streams store
	// what comes in under the subject that all know.
	inlets map[string]string
	skew   atomic.Int64 // of the server's clock against this one's
}

// now returns the time by the clock of the server, which stamps the streams.
func (f *fleet) now() time.Time { return time.Now().Add(time.Duration(f.skew.Load())) }

// connect connects to the server as the hub: to the one in the running hub if
// the configuration names no other.
func (p *cli) connect(ctx context.Context, c *config, more ...nats.Option) (*fleet, error) {
	url := c.NATS
	if url == "" {
		host, port, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return nil, err
		}
		if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
			host = "127.0.0.1"
		}
		url = "tls://" + net.JoinHostPort(host, port)
	}
	key, err := c.seed.PublicKey()
	if err != nil {
		return nil, err
	}
	options := []nats.Option{nats.Name("portmon-hub"), nats.Nkey(key, c.seed.Sign), nats.Timeout(5 * time.Second)}
	if strings.HasPrefix(url, "tls:") {
		options = append(options, nats.Secure(wire.ClientTLS(c.Pin)))
	}
	nc, err := nats.Connect(url, append(options, more...)...)
	if err != nil {
		err = fmt.Errorf("connect to %s: %w", url, err)
		if c.NATS == "" {
			return nil, hint("the hub has to run: systemctl start portmon-hub", "%w", err)
		}
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1<<14), jetstream.WithPublishAsyncTimeout(5*time.Second))
	if err != nil {
		nc.Close()
		return nil, err
	}
	f := &fleet{nc: nc, js: js, inlets: make(map[string]string)}
	if err := f.open(ctx, c); err != nil {
		nc.Close()
		return nil, fmt.Errorf("open the streams: %w", err)
	}
	return f, nil
}

func (f *fleet) close() { f.nc.Close() }

// Bounds of the streams. A host that floods its own subject loses what it said
// itself.
const (
	maxSightingBytes = 64 << 20
	maxOfOneHost     = 1 << 14
	maxBanBytes      = 256 << 20
	maxHosts         = 20_000
)

// open makes the streams, or has them be as they should be.
func (f *fleet) open(ctx context.Context, c *config) error {
	for _, s := range []jetstream.StreamConfig{
		{
			Name: wire.Sightings, Description: "what hosts have seen", Subjects: []string{wire.SightingPrefix + "*"}, MaxAge: wire.MaxAge,
			MaxBytes: maxSightingBytes, MaxMsgsPerSubject: maxOfOneHost, Duplicates: 2 * time.Minute,
		},
		{
			Name: wire.Bans, Description: "what hubs ban", MaxBytes: maxBanBytes, MaxMsgsPerSubject: 1, AllowMsgTTL: true,
			Duplicates: 2 * time.Minute, SubjectTransform: &jetstream.SubjectTransformConfig{Destination: wire.BanPrefix + "{{wildcard(1)}}"},
		},
		{
			Name: wire.Hosts, Description: "what hubs know of hosts", MaxMsgs: maxHosts, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew,
			SubjectTransform: &jetstream.SubjectTransformConfig{Destination: wire.HostPrefix + "{{wildcard(1)}}"},
		},
	} {
		s.Storage, s.Replicas, s.MaxMsgSize, s.DenyDelete = jetstream.FileStorage, c.Replicas, 2*wire.MaxMessage, true
		wanted, err := json.Marshal(s)
		if err != nil {
			return err
		}
		s.Metadata = map[string]string{"portmon": fmt.Sprintf("%x", sha256.Sum256(wanted))}
		stream, err := f.js.Stream(ctx, s.Name)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if s.SubjectTransform != nil {
			inlet := "portmon.in." + rand.Text() + "."
			if stream != nil && len(stream.CachedInfo().Config.Subjects) == 1 {
				inlet = strings.TrimSuffix(stream.CachedInfo().Config.Subjects[0], "*")
			}
			f.inlets[s.Name] = inlet
			s.Subjects, s.SubjectTransform.Source = []string{inlet + "*"}, inlet+"*"
		}
		// To change it for nothing would have its age be another, by which hosts
		// know it.
		if stream == nil || stream.CachedInfo().Config.Metadata["portmon"] != s.Metadata["portmon"] {
			if stream, err = f.js.CreateOrUpdateStream(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
		}
		f.skew.Store(int64(time.Until(stream.CachedInfo().TimeStamp)))
	}
	return nil
}

// follow sends all messages of a stream that are there, of each subject the last
// if that is wanted, and those that come until stop is called. The number is
// that of those that are there.
func (f *fleet) follow(ctx context.Context, stream string, policy jetstream.DeliverPolicy) (msgs <-chan jetstream.Msg, there uint64, stop func(), err error) {
	consumer, err := f.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: policy})
	if err != nil {
		return nil, 0, nil, fmt.Errorf("read %s: %w", stream, err)
	}
	ch, done := make(chan jetstream.Msg, 1024), make(chan struct{})
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case ch <- m:
		case <-done:
		}
		// Of a consumer that went with a server of a cluster, silence tells.
	}, jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return nil, 0, nil, fmt.Errorf("read %s: %w", stream, err)
	}
	return ch, consumer.CachedInfo().NumPending, func() { close(done); consuming.Stop() }, nil
}

// drain handles the messages that are there, before others follow.
func drain(ctx context.Context, msgs <-chan jetstream.Msg, there uint64, handle func(jetstream.Msg)) error {
	for there > 0 {
		select {
		case m := <-msgs:
			handle(m)
			if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
				return err
			}
		case <-time.After(5 * time.Second):
			return nil // what is left has expired meanwhile
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// record is what a stream knows of a host.
type record struct {
	wire.Host
	revision uint64
}

// hosts returns all hosts by name.
func (f *fleet) hosts(ctx context.Context) (map[string]record, error) {
	msgs, there, stop, err := f.follow(ctx, wire.Hosts, jetstream.DeliverLastPerSubjectPolicy)
	if err != nil {
		return nil, err
	}
	defer stop()
	hosts := make(map[string]record)
	err = drain(ctx, msgs, there, func(m jetstream.Msg) {
		if name, r, err := decodeHost(m); err == nil {
			hosts[name] = r
		}
	})
	return hosts, err
}

func decodeHost(m jetstream.Msg) (name string, r record, err error) {
	if name, err = wire.HostOf(wire.HostPrefix, m.Subject()); err != nil {
		return "", r, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return "", r, err
	}
	r.revision = meta.Sequence.Stream
	return name, r, wire.Decode(m.Data(), &r.Host)
}

// setHost stores what is known of a host, unless another hub has meanwhile.
func (f *fleet) setHost(ctx context.Context, name string, r record) (record, error) {
	data, err := wire.Encode(&r.Host)
	if err != nil {
		return r, fmt.Errorf("store host %s: %w", name, err)
	}
	ack, err := f.js.Publish(ctx, f.inlets[wire.Hosts]+name, data, jetstream.WithExpectLastSequencePerSubject(r.revision))
	if err != nil {
		return r, fmt.Errorf("store host %s: %w", name, err)
	}
	r.revision = ack.Sequence
	return r, nil
}

// publish stores a decision, and calls done when it is there or is not.
func (f *fleet) publish(d judge.Decision, withdrawal time.Duration, done func(error)) {
	data, err := wire.Encode(&d.Ban)
	if err != nil {
		done(err)
		return
	}
	ttl := d.Ban.Left(f.now()).Truncate(time.Second) + time.Minute
	if d.Ban.Lifted {
		ttl = withdrawal
	}
	options := []jetstream.PublishOpt{jetstream.WithMsgTTL(ttl)}
	if d.ID != "" {
		options = append(options, jetstream.WithMsgID(d.ID))
	}
	future, err := f.js.PublishMsgAsync(&nats.Msg{Subject: f.inlets[wire.Bans] + wire.Key(d.Ban.Source), Data: data}, options...)
	if err != nil {
		done(err)
		return
	}
	go func() {
		select {
		case <-future.Ok():
			done(nil)
		case err := <-future.Err():
			done(err)
		}
	}()
}
