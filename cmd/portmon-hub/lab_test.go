package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
)

// TestMain is the program itself if a test runs this binary as such.
func TestMain(m *testing.M) {
	switch os.Getenv("PORTMON_HUB_TEST") {
	case "1":
		main()
	case "lights":
		runLights()
		return
	}
	os.Exit(m.Run())
}

// patience is how long to wait for what must be, on a busy machine too.
const patience = time.Minute

// lab is a hub in a process of its own, so that it can be killed.
type lab struct {
	t   testing.TB
	dir string
	url string // as the hub's server listens
	cmd *exec.Cmd
	log *output
	// own is a NATS server beside it that the hub uses; see standAlone.
	own    *standAlone
	within []string // runs the hub
}

// output is what a process has written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func parallel(t testing.TB) {
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
}

// newLab initialises a hub and starts it. Lines like `quota = 5` replace those of
// the configuration.
func newLab(t testing.TB, settings ...string) *lab {
	t.Helper()
	l := prepareLab(t, settings...)
	l.start()
	return l
}

// prepareLab is newLab, but for the start.
func prepareLab(t testing.TB, settings ...string) *lab {
	t.Helper()
	parallel(t)
	l := &lab{t: t, dir: filepath.Join(t.TempDir(), "hub")}
	port := freePort(t)
	l.url = "tls://127.0.0.1:" + port
	l.command("init", "--url", l.url)
	settings = append([]string{`listen = "127.0.0.1:` + port + `"`, `page = "127.0.0.1:` + freePort(t) + `"`}, settings...)
	l.set(settings...)
	return l
}

func (l *lab) set(settings ...string) {
	l.t.Helper()
	path := filepath.Join(l.dir, configFile)
	data, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, s := range settings {
		key, _, _ := strings.Cut(s, " ")
		line := regexp.MustCompile(`(?m)^(# )?` + key + ` = .*$`)
		if !line.Match(data) {
			l.t.Fatalf("no %s in the configuration", key)
		}
		data = line.ReplaceAllLiteral(data, []byte(s))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// start starts the hub, and waits until it is ready.
func (l *lab) start() {
	l.t.Helper()
	l.launch()
	l.waitLog("ready")
}

// launch starts the hub.
func (l *lab) launch() {
	l.t.Helper()
	l.log = &output{more: make(chan struct{}, 1)}
	args := append(slices.Clone(l.within), os.Args[0], "run", "--dir", l.dir)
	l.cmd = exec.Command(args[0], args[1:]...)
	l.cmd.Env = append(os.Environ(), "PORTMON_HUB_TEST=1")
	l.cmd.Stdout, l.cmd.Stderr = l.log, l.log
	if err := l.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(l.kill)
}

// waitEnd waits until the hub has failed by itself, and said why.
func (l *lab) waitEnd(why string) {
	l.t.Helper()
	end := time.AfterFunc(patience, func() { _ = l.cmd.Process.Kill() })
	defer end.Stop()
	_ = l.cmd.Wait()
	if code := l.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(l.log.String(), why) {
		l.t.Errorf("the hub ends with code %d, and says:\n%s", code, l.log)
	}
}

func (l *lab) waitLog(text string) {
	l.t.Helper()
	for deadline := time.After(patience); !strings.Contains(l.log.String(), text); {
		select {
		case <-l.log.more:
		case <-deadline:
			l.t.Fatalf("the hub does not say %q:\n%s", text, l.log)
		}
	}
}

// restart kills the hub and starts it, and waits until hosts are connected again.
func (l *lab) restart(hosts ...*client) {
	l.t.Helper()
	for _, h := range hosts {
		for len(h.again) > 0 {
			<-h.again
		}
	}
	l.kill()
	l.start()
	for _, h := range hosts {
		if l.own == nil {
			h.reconnected()
		}
	}
}

// kill ends the hub at once.
func (l *lab) kill() {
	if l.cmd.ProcessState == nil {
		_ = l.cmd.Process.Kill()
		_ = l.cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("the hub said:\n%s", l.log)
		}
	}
}

// command runs a command of the program, and returns its output.
func (l *lab) command(args ...string) string {
	l.t.Helper()
	out, errOut, code := l.try(args...)
	if code != 0 {
		l.t.Fatalf("%v: code %d: %s", args, code, errOut)
	}
	return out
}

func (l *lab) try(args ...string) (out, errOut string, code int) {
	var stdout, stderr bytes.Buffer
	code = run(context.Background(), &stdout, &stderr, append(args, "--dir", l.dir))
	return stdout.String(), stderr.String(), code
}

// page returns what the hub serves at a path.
func (l *lab) page(path string) string {
	l.t.Helper()
	c, err := (&cli{dir: l.dir}).load()
	if err != nil {
		l.t.Fatal(err)
	}
	r, err := http.Get("http://" + c.Page + path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		l.t.Fatal(r.Status, err)
	}
	return string(text)
}

// usersChanged has a server that is not in the hub know its users.
func (l *lab) usersChanged() {
	if l.own != nil {
		l.own.reload(l.t, l.command("users"))
	}
}

// client is a host of the fleet, or whatever has its key.
type client struct {
	t     testing.TB
	name  string
	nc    *nats.Conn
	js    jetstream.JetStream
	key   nkeys.KeyPair
	token *wire.Token
	tells chan *nats.Msg
	again chan struct{} // it has connected again
}

// join invites a host and has it join.
func (l *lab) join(name string) *client {
	l.t.Helper()
	token, err := wire.ParseToken(l.command("invite", name))
	if err != nil {
		l.t.Fatal(err)
	}
	l.usersChanged()
	provisional, err := nkeys.FromSeed([]byte(token.Seed))
	if err != nil {
		l.t.Fatal(err)
	}
	h := &client{t: l.t, name: name, token: token, key: provisional}
	if err := h.connect(); err != nil {
		l.t.Fatal(err)
	}
	own, err := nkeys.CreateUser()
	if err != nil {
		l.t.Fatal(err)
	}
	public, _ := own.PublicKey()
	var joined wire.Joined
	if err := h.ask(wire.JoinPrefix+name, &wire.Join{Key: public}, &joined); err != nil || joined.Error != "" {
		l.t.Fatal(err, joined.Error)
	}
	if joined.Kept {
		return h
	}
	h.nc.Close()
	h.key = own
	if err := h.connect(); err != nil {
		l.t.Fatal(err)
	}
	return h
}

// connect connects as a host does.
func (h *client) connect() error {
	public, err := h.key.PublicKey()
	if err != nil {
		return err
	}
	h.again = make(chan struct{}, 100)
	h.nc, err = nats.Connect(strings.Join(h.token.URLs, ","), nats.Nkey(public, h.key.Sign), nats.Secure(wire.ClientTLS(h.token.Pin)),
		nats.CustomInboxPrefix(wire.InboxPrefix(h.name)), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.IgnoreAuthErrorAbort(), nats.Timeout(patience), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
		nats.ReconnectHandler(func(*nats.Conn) { h.again <- struct{}{} }))
	if err != nil {
		return err
	}
	h.t.Cleanup(h.nc.Close)
	if h.js, err = jetstream.New(h.nc, jetstream.WithPublishAsyncMaxPending(4096)); err != nil {
		return err
	}
	h.tells = make(chan *nats.Msg, 16)
	_, err = h.nc.ChanSubscribe(wire.TellPrefix+h.name, h.tells)
	return err
}

// reconnected waits until it is connected, after the hub or its standing was
// another.
func (h *client) reconnected() {
	h.t.Helper()
	select {
	case <-h.again:
	case <-time.After(patience):
		h.t.Fatalf("%s does not connect again", h.name)
	}
}

func (h *client) ask(subject string, m, answer wire.Message) error {
	data, err := wire.Encode(m)
	if err != nil {
		return err
	}
	var reply *nats.Msg
	for range 60 { // it may be disconnected in between
		if reply, err = h.nc.Request(subject, data, patience/60); err == nil {
			return wire.Decode(reply.Data, answer)
		}
	}
	return err
}

func (h *client) hello() wire.Answer {
	h.t.Helper()
	var answer wire.Answer
	if err := h.ask(wire.HelloPrefix+h.name, &wire.Hello{Version: "test"}, &answer); err != nil {
		h.t.Fatal(err)
	}
	return answer
}

func source(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{45, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

// numberOf is the reverse of source.
func numberOf(a netip.Addr) int {
	b := a.As4()
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

func sightingOf(p netip.Prefix) []byte {
	now := time.Now()
	data, err := wire.Encode(&wire.Sighting{Source: p, Step: 1, Cause: wire.Trap, Proto: 6, Port: 23, At: now, Sent: now})
	if err != nil {
		panic(err)
	}
	return data
}

// seeSoon is see of a host that is just being let speak.
func (h *client) seeSoon(p netip.Prefix) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		_, err := h.js.Publish(ctx, wire.SightingPrefix+h.name, sightingOf(p))
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: publish %s: %s", h.name, p, err)
		}
	}
}

// see publishes sightings, and waits until they are stored.
func (h *client) see(sources ...netip.Prefix) {
	h.t.Helper()
	for _, p := range sources {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := h.js.Publish(ctx, wire.SightingPrefix+h.name, sightingOf(p))
		cancel()
		if err != nil {
			h.t.Fatalf("%s: publish %s: %s", h.name, p, err)
		}
	}
}

// watcher is the bans that a host knows, as its consumer tells them.
type watcher struct {
	t    testing.TB
	mu   sync.Mutex
	bans map[netip.Prefix]wire.Ban
	news chan struct{}
}

// watch has the host be told bans, also by a cluster that is just finding a leader.
func (h *client) watch() *watcher {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		w, err := h.tryWatch(patience / 20)
		if err == nil {
			return w
		}
		if time.Now().After(deadline) {
			h.t.Fatal(err)
		}
	}
}

func (h *client) tryWatch(timeout time.Duration) (*watcher, error) {
	w := &watcher{t: h.t, bans: make(map[netip.Prefix]wire.Ban), news: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := h.js.DeleteConsumer(ctx, wire.Bans, h.name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, err
	}
	consumer, err := h.js.CreateOrUpdateConsumer(ctx, wire.Bans, jetstream.ConsumerConfig{
		Name: h.name, FilterSubject: wire.BanPrefix + ">", AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		InactiveThreshold: time.Minute, MemoryStorage: true,
	})
	if err != nil {
		return nil, err
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		var b wire.Ban
		if err := wire.Decode(m.Data(), &b); err != nil || wire.BanPrefix+wire.Key(b.Source) != m.Subject() {
			h.t.Errorf("%s: %q: %v", m.Subject(), m.Data(), err)
		}
		w.mu.Lock()
		w.bans[b.Source] = b
		w.mu.Unlock()
		select {
		case w.news <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(consuming.Stop)
	return w, nil
}

// inForce returns how many bans are.
func (w *watcher) inForce() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, b := range w.bans {
		if !b.Lifted {
			n++
		}
	}
	return n
}

func (w *watcher) get(p netip.Prefix) wire.Ban {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bans[p]
}

// wait waits until something is so.
func (w *watcher) wait(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.After(patience); !is(); {
		select {
		case <-w.news:
		case <-deadline:
			w.t.Fatalf("in vain: %s; %d bans in force", what, w.inForce())
		}
	}
}

func (h *client) waitTell(want wire.Standing) {
	h.t.Helper()
	select {
	case m := <-h.tells:
		var tell wire.Tell
		if err := wire.Decode(m.Data, &tell); err != nil || tell.Standing != want {
			h.t.Errorf("%s is told %s: %v", h.name, m.Data, err)
		}
	case <-time.After(patience):
		h.t.Errorf("%s is not told that it is %s", h.name, want)
	}
}
