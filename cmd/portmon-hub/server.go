package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/fleet/wire"
)

// Bounds of the server in this program.
const (
	maxStore       = 1 << 30 // bytes of all streams
	maxPending     = 8 << 20 // bytes that wait for a slow client
	maxConnections = 24_000  // above maxHosts, and below the open files of the unit
	maxOfOneKey    = 4       // connections; a host has one, and another for a moment
)

// broker is the NATS server in this program. It knows the keys of the hub and of
// the hosts.
type broker struct {
	*server.Server
	hub string // its public key

	mu    sync.RWMutex
	hosts map[string]keyHolder // by public key
}

type keyHolder struct {
	name string
	host wire.Host
}

// startBroker starts the server, which lets in nobody but the hub as yet.
func startBroker(c *config, log server.Logger) (*broker, error) {
	hub, err := c.seed.PublicKey()
	if err != nil {
		return nil, err
	}
	tls, err := serverTLS(c.dir)
	if err != nil {
		return nil, fmt.Errorf("read the keys in %s: %w", c.dir, err)
	}
	host, portText, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, &configError{fmt.Errorf("listen: %w", err)}
	}
	b := &broker{hub: hub, hosts: make(map[string]keyHolder)}
	b.Server, err = server.NewServer(&server.Options{
		ServerName: "portmon-hub", Host: host, Port: int(port), TLSConfig: tls, TLSTimeout: 5, AuthTimeout: 5,
		CustomClientAuthentication: b, AlwaysEnableNonce: true,
		JetStream: true, StoreDir: filepath.Join(c.dir, storeDir), JetStreamMaxStore: maxStore, JetStreamMaxMemory: 64 << 20,
		MaxConn: maxConnections, MaxPending: maxPending, MaxSubs: 64, NoSigs: true, NoSystemAccount: true,
		// What a power cut takes, hosts tell no more.
		SyncInterval: 10 * time.Second,
		DontListen:   true, PingInterval: 20 * time.Second, MaxPingsOut: 2, WriteDeadline: 5 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the NATS server: %w", err)
	}
	b.SetLoggerV2(log, false, false, false)
	b.Start()
	if !b.ReadyForConnections(30 * time.Second) {
		b.Shutdown()
		return nil, fmt.Errorf("start the NATS server with its store in %s: it is not ready after 30 s", filepath.Join(c.dir, storeDir))
	}
	return b, nil
}

// listen lets hosts in. Before their keys are known all would be sent away.
func (b *broker) listen() error {
	done := make(chan struct{})
	b.AcceptLoop(done)
	<-done
	if b.Addr() == nil {
		return errors.New("listen for hosts: the address cannot be had: is it in use?")
	}
	return nil
}

// setHost changes whom the server lets in, and disconnects a host that may do
// less or more than before, or has another key.
func (b *broker) setHost(name string, h *wire.Host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, holder := range b.hosts {
		if holder.name != name {
			continue
		}
		delete(b.hosts, key)
		if key != h.Key || holder.host.Standing != h.Standing {
			// A moment later, so that an answer or the news of it get through.
			time.AfterFunc(100*time.Millisecond, func() { b.disconnect(key) })
		}
	}
	if h.Standing != wire.Revoked {
		b.hosts[h.Key] = keyHolder{name, *h}
	}
}

// disconnect ends all connections with a key.
func (b *broker) disconnect(key string) {
	conns, err := b.Connz(&server.ConnzOptions{Username: true, Limit: maxConnections})
	if err != nil {
		return // it is shutting down
	}
	for _, c := range conns.Conns {
		if c.AuthorizedUser == key {
			_ = b.DisconnectClientByID(c.Cid) // it may be gone by itself
		}
	}
}

// limit ends connections beyond those that a host may have, but for the latest.
// Where there are no more of them than hosts, their memory is what it may be.
func (b *broker) limit() {
	b.mu.RLock()
	hosts := len(b.hosts)
	b.mu.RUnlock()
	if b.NumClients() <= hosts+1 {
		return
	}
	conns, err := b.Connz(&server.ConnzOptions{Username: true, Limit: maxConnections})
	if err != nil {
		return // it is shutting down
	}
	open := make(map[string]int)
	for _, c := range slices.Backward(conns.Conns) { // in the order in which they came
		if open[c.AuthorizedUser]++; open[c.AuthorizedUser] > maxOfOneKey && c.AuthorizedUser != "" && c.AuthorizedUser != b.hub {
			_ = b.DisconnectClientByID(c.Cid) // it may be gone by itself
		}
	}
}

// Check implements [server.Authentication].
func (b *broker) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	sig, err := base64.RawURLEncoding.DecodeString(o.Sig)
	if err != nil {
		sig, err = base64.StdEncoding.DecodeString(o.Sig)
	}
	public, keyErr := nkeys.FromPublicKey(o.Nkey)
	if errors.Join(err, keyErr) != nil || public.Verify(c.GetNonce(), sig) != nil {
		return false
	}
	if o.Nkey == b.hub {
		c.RegisterUser(&server.User{})
		return true
	}
	b.mu.RLock()
	holder, ok := b.hosts[o.Nkey]
	b.mu.RUnlock()
	if !ok || holder.host.Standing == wire.Invited && time.Now().After(holder.host.Expires) {
		return false
	}
	publish, subscribe := permissions(holder.name, holder.host.Standing, false)
	c.RegisterUser(&server.User{
		Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
		},
	})
	return true
}

// maxLines is how many lines of the server are logged in a minute: anybody can
// have it complain.
const maxLines = 20

// logger logs the warnings and errors of the server.
type logger struct {
	*ui
	// broken is called when a stream cannot be written. The server writes none
	// such any more, whatever becomes of the disk.
	broken func(error)
	mu     sync.Mutex
	since  time.Time
	lines  int
}

func (l *logger) log(format string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.since) > time.Minute {
		l.since, l.lines = time.Now(), 0
	}
	if l.lines++; l.lines <= maxLines {
		l.note("nats-server: "+format, args...)
	}
}

func (l *logger) Noticef(string, ...any)           {}
func (l *logger) Debugf(string, ...any)            {}
func (l *logger) Tracef(string, ...any)            {}
func (l *logger) Warnf(format string, args ...any) { l.log(format, args) }
func (l *logger) Errorf(format string, args ...any) {
	l.log(format, args)
	for _, arg := range args {
		if err, ok := arg.(error); ok && slices.ContainsFunc(diskFaults, func(e error) bool { return errors.Is(err, e) }) {
			l.broken(err)
		}
	}
}
func (l *logger) Fatalf(format string, args ...any) { l.log(format, args) }

// diskFaults are errors of the disk, not of what is on it.
var diskFaults = []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS}
