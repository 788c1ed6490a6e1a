package main

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
)

// What one host saw, all ban; and what a fleet of four does, two have to see.
func TestSightingToBan(t *testing.T) { forAll(t, testSightingToBan) }

func testSightingToBan(t *testing.T, l *lab) {
	a, b := l.join("a"), l.join("b")
	w := b.watch()
	began := time.Now()
	a.see(source(1))
	w.wait("a ban of what one of two saw", func() bool { return w.get(source(1)).Step == 1 })
	t.Logf("from sighting to ban: %s", time.Since(began))
	ban := w.get(source(1))
	if ban.Hosts != 1 || len(ban.By) != 1 || ban.By[0].Host != "a" || ban.By[0].Port != 23 || ban.Left(b.hello().Now) > time.Hour+time.Second { // the clock of the server is estimated
		t.Errorf("%+v", ban)
	}
	six := netip.MustParsePrefix("2001:db8:1:2::/64")
	b.see(six)
	w.wait("a ban of a /64", func() bool { return w.get(six).Step == 1 })
	c, d := l.join("c"), l.join("d")
	c.see(source(2))
	d.see(source(3))
	d.see(source(2))
	w.wait("a ban of what two of four saw", func() bool { return w.get(source(2)).Hosts == 2 })
	if w.get(source(3)).Step != 0 {
		t.Error("one of four is enough")
	}
	if answer := d.hello(); answer.Hosts != 4 || answer.Quorum != 2 || answer.Standing != wire.Member || answer.Last == 0 || answer.Created.IsZero() {
		t.Errorf("%+v", answer)
	}
	if out := l.command("hosts"); !strings.Contains(out, "d ") || !strings.Contains(out, "member") || !strings.Contains(out, "ago") {
		t.Error(out)
	}
	// One who comes later gets it all.
	if late := l.join("late").watch(); true {
		late.wait("the bans of before", func() bool { return late.inForce() == w.inForce() })
	}
}

// A host can do nothing but speak for itself, with its real key.
func TestHostCanDoLittle(t *testing.T) { forAll(t, testHostCanDoLittle) }

func testHostCanDoLittle(t *testing.T, l *lab) {
	bad, other := l.join("bad"), l.join("other")
	w := other.watch()
	other.see(source(1))
	w.wait("a ban", func() bool { return w.inForce() == 1 })
	refused := make(chan string, 100)
	bad.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err.Error() })
	expect := func(what string) {
		t.Helper()
		if err := bad.nc.FlushTimeout(patience); err != nil {
			t.Fatal(err)
		}
		select {
		case text := <-refused:
			if !strings.Contains(strings.ToLower(text), "permissions violation") {
				t.Errorf("%s: %s", what, text)
			}
		case <-time.After(patience):
			t.Errorf("%s is not refused", what)
		}
	}
	for _, subject := range []string{
		wire.SightingPrefix + "other", wire.BanPrefix + wire.Key(source(9)), wire.HostPrefix + "bad", wire.TellPrefix + "other", wire.HelloPrefix + "other",
		wire.JoinPrefix + "other", askSubject, "$JS.API.STREAM.DELETE.BANS", "$JS.API.STREAM.PURGE.SIGHTINGS", "$JS.API.STREAM.MSG.DELETE.BANS",
		"$JS.API.STREAM.INFO.BANS", "$JS.API.STREAM.CREATE.x", "$JS.API.DIRECT.GET.SIGHTINGS", "$JS.API.STREAM.MSG.GET.HOSTS", "$JS.API.INFO",
		"$JS.API.CONSUMER.CREATE.SIGHTINGS.bad", "$JS.API.CONSUMER.CREATE.HOSTS.bad", "$JS.API.CONSUMER.CREATE.BANS.other",
		"$JS.API.CONSUMER.DELETE.BANS.other", "$JS.API.CONSUMER.DURABLE.CREATE.BANS.bad", "$SYS.REQ.SERVER.PING", "portmon.in.x." + wire.Key(source(9)),
	} {
		if err := bad.nc.Publish(subject, sightingOf(source(9))); err != nil {
			t.Fatal(err)
		}
		expect("publishing " + subject)
	}
	for _, subject := range []string{">", "portmon.>", wire.SightingPrefix + "*", wire.TellPrefix + "other", wire.BanPrefix + ">", "_INBOX_other.>", "_INBOX.>", "$JS.>"} {
		if _, err := bad.nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		expect("subscribing to " + subject)
	}
	// A client names the subject for its answer, and the server publishes there:
	// it must not get the server to write where the client itself may not.
	for _, reply := range []string{
		wire.BanPrefix + wire.Key(source(1)), wire.SightingPrefix + "other", wire.HostPrefix + "other", wire.TellPrefix + "other",
	} {
		for _, subject := range []string{
			wire.SightingPrefix + "bad", wire.HelloPrefix + "bad", wire.JoinPrefix + "bad", "$JS.API.CONSUMER.INFO.BANS.bad",
		} {
			if err := bad.nc.PublishRequest(subject, reply, []byte(`{"key":"UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4","bans":1}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	bad.hello()
	other.see(source(2)) // goes the same way, so all before has had its effect
	w.wait("a ban after all of it", func() bool { return w.get(source(2)).Step == 1 })
	if w.inForce() != 2 || w.get(source(9)).Step != 0 || len(refused) > 0 {
		t.Errorf("%d bans", w.inForce())
	}
	again := l.join("late").watch()
	again.wait("what was banned before", func() bool { return again.get(source(1)).Step == 1 && again.get(source(2)).Step == 1 })
	if out := l.command("hosts"); strings.Count(out, " member ") != 3 {
		t.Error(out)
	}
	// What is no sighting, or of none that may be banned, leaves nothing behind.
	for _, p := range []string{"10.0.0.1/32", "203.0.113.0/24", "127.0.0.1/32", "fe80::/64", "2001:db8::/48", "0.0.0.0/0"} {
		if err := bad.nc.Publish(wire.SightingPrefix+"bad", []byte(strings.Replace(string(sightingOf(source(7))), source(7).String(), p, 1))); err != nil {
			t.Fatal(err)
		}
	}
	for _, data := range [][]byte{nil, []byte("{}"), []byte("\x1b[2J"), []byte(strings.Repeat("[", 100000)), []byte(strings.Repeat("x", 4096))} {
		if err := bad.nc.Publish(wire.SightingPrefix+"bad", data); err != nil {
			t.Fatal(err)
		}
	}
	bad.see(source(3))
	w.wait("a ban after rubbish", func() bool { return w.get(source(3)).Step == 1 })
	if w.inForce() != 3 {
		t.Errorf("%d bans", w.inForce())
	}
}

// The key of a token is good for one thing, once; others' keys for nothing.
func TestKeys(t *testing.T) {
	l := newLab(t)
	token, err := wire.ParseToken(l.command("invite", "a"))
	if err != nil {
		t.Fatal(err)
	}
	provisional, err := nkeys.FromSeed([]byte(token.Seed))
	if err != nil {
		t.Fatal(err)
	}
	h := &client{t: t, name: "a", token: token, key: provisional}
	if err := h.connect(); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	h.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	if err := h.nc.Publish(wire.SightingPrefix+"a", sightingOf(source(1))); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("with the key of a token, sightings can be published")
	}
	own, _ := nkeys.CreateUser()
	public, _ := own.PublicKey()
	var joined wire.Joined
	if err := h.ask(wire.JoinPrefix+"a", &wire.Join{Key: public}, &joined); err != nil || joined != (wire.Joined{}) {
		t.Fatal(err, joined)
	}
	second := &client{t: t, name: "a", token: token, key: provisional}
	if err := second.connect(); !errors.Is(err, nats.ErrAuthorization) {
		t.Error("the key of a token was used:", err)
	}
	stranger, _ := nkeys.CreateUser()
	if err := (&client{t: t, name: "a", token: token, key: stranger}).connect(); !errors.Is(err, nats.ErrAuthorization) {
		t.Error("a stranger:", err)
	}
	if _, err := nats.Connect(l.url, nats.Secure(wire.ClientTLS(token.Pin))); !errors.Is(err, nats.ErrAuthorization) {
		t.Error("without a key:", err)
	}
	wrong := *token
	wrong.Pin = "sha256:" + strings.Repeat("a", 43)
	if err := (&client{t: t, name: "a", token: &wrong, key: own}).connect(); !errors.Is(err, wire.ErrPin) {
		t.Error("another hub:", err)
	}
	if err := (&client{t: t, name: "a", token: token, key: own}).connect(); err != nil {
		t.Error(err)
	}
	if _, errOut, code := l.try("invite", "a"); code != exitFailed || !strings.Contains(errOut, "joined already") {
		t.Error(code, errOut)
	}
}

// What is unbanned at the hub stays so, also when the hub is killed, until a host
// sees it again.
func TestUnban(t *testing.T) {
	l := newLab(t)
	a, b := l.join("a"), l.join("b")
	w := b.watch()
	four, six, other := source(1), netip.MustParsePrefix("2001:db8:1:2::/64"), source(2)
	a.see(four, six, other)
	w.wait("three bans", func() bool { return w.inForce() == 3 })
	out := l.command("unban", four.Addr().String(), "2001:db8:1:2::7")
	if want := "unbanned " + four.Addr().String() + "\nunbanned 2001:db8:1:2::/64\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	w.wait("one ban is left", func() bool { return w.inForce() == 1 })
	if w.get(other).Lifted {
		t.Error("the other ban is lifted")
	}
	l.restart(a, b)
	w = b.watch()
	a.see(source(3))
	w.wait("a ban after the start", func() bool { return w.get(source(3)).Step == 1 })
	if !w.get(four).Lifted || !w.get(six).Lifted {
		t.Errorf("they are banned again: %+v, %+v", w.get(four), w.get(six))
	}
	b.see(four)
	w.wait("it is seen again", func() bool { return !w.get(four).Lifted })
	if ban := w.get(four); ban.Hosts != 1 || ban.By[0].Host != "b" {
		t.Errorf("what was forgiven counts: %+v", ban)
	}
	if out := l.command("unban", "203.0.113.250"); out != "" {
		t.Errorf("an address that is not banned: %q", out)
	}
	if _, errOut, code := l.try("unban", "host.example"); code != exitUsage || !strings.Contains(errOut, "is not an IP address") {
		t.Errorf("a name: code %d, %s", code, errOut)
	}
}

// A hub that is killed has lost nothing that it acknowledged, and doubles
// nothing.
func TestKilled(t *testing.T) {
	l := newLab(t)
	a, b := l.join("a"), l.join("b")
	const n = 300
	for i := range n {
		a.see(source(i))
	}
	l.restart(a, b) // in the middle of what follows from them
	w := b.watch()
	w.wait("all that was acknowledged", func() bool { return w.inForce() == n })
	before := b.hello()
	if before.Hosts != 2 {
		t.Errorf("%+v", before)
	}
	l.restart(a, b)
	after := b.hello()
	if after.Last != before.Last || after.Last > n+n/10 || !after.Created.Equal(before.Created) {
		t.Errorf("%d bans are\n%+v, and after a start\n%+v", n, before, after)
	}
	w = b.watch()
	a.see(source(n))
	w.wait("a ban after another start", func() bool { return w.inForce() == n+1 })
}

// A host that says too much is quarantined, and leaves nothing behind. What others
// say meanwhile counts. PORTMON_LONG=1 has it be a million sightings.
func TestPoisoning(t *testing.T) { forAll(t, testPoisoning) }

func testPoisoning(t *testing.T, l *lab) {
	n := 100_000
	if l.own != nil && len(l.own.servers) > 1 {
		n = 20_000 // three copies of each
	}
	if os.Getenv("PORTMON_LONG") != "" {
		n = 1_000_000
	}
	bad, good := l.join("bad"), l.join("good")
	w := good.watch()
	good.see(source(1<<20), source(1<<20+1))
	w.wait("what is good", func() bool { return w.inForce() == 2 })
	most := 0
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for i := range n {
			data := sightingOf(source(i))
			switch i % 1000 { // it need not be careful
			case 500:
				data = []byte(strings.Repeat("[", wire.MaxMessage))
			case 501:
				data = make([]byte, 500_000)
			}
			if err := bad.nc.Publish(wire.SightingPrefix+"bad", data); err != nil {
				return
			}
		}
	}()
	began := time.Now()
	w.wait("the quarantine", func() bool {
		most = max(most, w.inForce())
		return w.get(source(0)).Lifted && w.inForce() == 2
	})
	t.Logf("at most %d bans, withdrawn after %s", most, time.Since(began))
	if most > 1002 {
		t.Errorf("%d bans, and the quota is 1000", most)
	}
	good.seeSoon(source(1<<20 + 4)) // a server may drop what is too much for it
	w.wait("what is good, in the flood", func() bool { return w.get(source(1<<20+4)).Step == 1 })
	t.Logf("a ban of what another host saw after %s; the hub has %.0f MB", time.Since(began), process(l.cmd.Process.Pid).rss(t))
	l.waitLog("host bad is quarantined: reported more than 1000 sources")
	if page := l.page("/"); !strings.Contains(page, "quarantined") || !strings.Contains(page, "its quota") {
		t.Errorf("the page says:\n%s", page)
	}
	if metrics := l.page("/metrics"); !strings.Contains(metrics, `portmon_hub_hosts{standing="quarantined"} 1`) {
		t.Errorf("the metrics are:\n%s", metrics)
	}
	bad.waitTell(wire.Quarantined)
	l.usersChanged()
	if answer := bad.hello(); answer.Standing != wire.Quarantined || !strings.Contains(answer.Reason, "quota") || answer.Hosts != 1 {
		t.Errorf("%+v", answer)
	}
	if out := l.command("hosts"); !strings.Contains(out, "quarantined") || !strings.Contains(out, "its quota") {
		t.Error(out)
	}
	if late := l.join("late").watch(); true {
		late.wait("what is good", func() bool { return late.get(source(1<<20+4)).Step == 1 })
		if late.inForce() != 3 {
			t.Errorf("%d bans for who joins", late.inForce())
		}
	}
	// A start after it finds the same.
	l.restart(good, bad)
	w = good.watch()
	good.see(source(1<<20 + 2))
	w.wait("a ban", func() bool { return w.get(source(1<<20+2)).Step == 1 })
	if w.inForce() != 4 {
		t.Errorf("%d bans after a start", w.inForce())
	}
	<-flooded // a server that the hub cannot change takes it all
	t.Logf("the flood has ended after %s; the hub has %.0f MB", time.Since(began), process(l.cmd.Process.Pid).rss(t))
	if err := bad.nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	l.command("release", "bad")
	l.usersChanged()
	bad.waitTell(wire.Member)
	bad.seeSoon(source(1<<20 + 3))
	w.wait("a ban by who was released", func() bool { return w.get(source(1<<20+3)).Step == 1 })
	if w.inForce() != 5 {
		t.Errorf("%d bans after the release", w.inForce())
	}
}

// What only a revoked host said is withdrawn within a second.
func TestRevoke(t *testing.T) { forAll(t, testRevoke) }

func testRevoke(t *testing.T, l *lab) {
	bad, good := l.join("bad"), l.join("good")
	w := good.watch()
	for i := range 500 {
		bad.see(source(i))
	}
	good.see(source(0))
	w.wait("bans", func() bool { return w.inForce() == 500 && w.get(source(0)).Hosts == 2 })
	disconnected := make(chan struct{}, 10)
	bad.nc.SetDisconnectErrHandler(func(*nats.Conn, error) { disconnected <- struct{}{} })
	began := time.Now()
	l.command("revoke", "bad")
	w.wait("the withdrawals", func() bool { return w.inForce() == 1 && w.get(source(0)).Hosts == 1 })
	t.Logf("withdrawn in %s", time.Since(began)) // BenchmarkRevoke measures it
	if b := w.get(source(0)); b.Hosts != 1 || b.By[0].Host != "good" {
		t.Errorf("%+v", b)
	}
	l.usersChanged()
	select {
	case <-disconnected:
	case <-time.After(patience):
		t.Error("it is still connected")
	}
	if err := (&client{t: t, name: "bad", token: bad.token, key: bad.key}).connect(); !errors.Is(err, nats.ErrAuthorization) {
		t.Error("its key opens:", err)
	}
	if _, errOut, code := l.try("revoke", "stranger"); code != exitFailed || !strings.Contains(errOut, "no such host") {
		t.Error(code, errOut)
	}
	if _, errOut, code := l.try("release", "good"); code != exitFailed || !strings.Contains(errOut, "not quarantined") {
		t.Error(code, errOut)
	}
	// By another invitation it may come back.
	back := l.join("bad")
	back.see(source(1000))
	w.wait("a ban by who came back", func() bool { return w.get(source(1000)).Step == 1 })
	if w.inForce() != 2 {
		t.Errorf("%d bans", w.inForce())
	}
}

// A host may change its key.
func TestRotate(t *testing.T) {
	l := newLab(t)
	h := l.join("a")
	w := h.watch()
	h.see(source(1))
	w.wait("a ban", func() bool { return w.inForce() == 1 })
	before := h.key
	h.rotate()
	if err := (&client{t: t, name: "a", token: h.token, key: before}).connect(); !errors.Is(err, nats.ErrAuthorization) {
		t.Error("the old key opens:", err)
	}
	w = h.watch()
	h.see(source(2))
	w.wait("bans of before and after", func() bool { return w.inForce() == 2 })
}

// rotate has the host connected with a new key.
func (h *client) rotate() {
	h.t.Helper()
	next, _ := nkeys.CreateUser()
	public, _ := next.PublicKey()
	var joined wire.Joined
	if err := h.ask(wire.JoinPrefix+h.name, &wire.Join{Key: public}, &joined); err != nil || joined != (wire.Joined{}) {
		h.t.Fatal(err, joined)
	}
	h.nc.Close()
	h.key = next
	if err := h.connect(); err != nil {
		h.t.Fatal(err)
	}
}

// A host can neither take the key of another, which everybody may know, nor have
// the hub store and log without end.
func TestJoinAgain(t *testing.T) {
	l := newLab(t)
	bad, victim := l.join("bad"), l.join("victim")
	join := func(public string) (joined wire.Joined) {
		t.Helper()
		if err := bad.ask(wire.JoinPrefix+"bad", &wire.Join{Key: public}, &joined); err != nil {
			t.Fatal(err)
		}
		return joined
	}
	c, err := (&cli{dir: l.dir}).load()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []nkeys.KeyPair{victim.key, c.seed} {
		public, _ := key.PublicKey()
		if joined := join(public); !strings.Contains(joined.Error, "another host has this key") {
			t.Errorf("the key of another is taken: %+v", joined)
		}
	}
	l.command("revoke", "bad")
	if err := (&client{t: t, name: "victim", token: victim.token, key: victim.key}).connect(); err != nil {
		t.Error("its key opens no more:", err)
	}
	bad = l.join("bad")
	own, _ := bad.key.PublicKey()
	logged := strings.Count(l.log.String(), "host bad has joined")
	for range 10 {
		if joined := join(own); joined != (wire.Joined{}) {
			t.Errorf("with the key that it has: %+v", joined)
		}
	}
	if n := strings.Count(l.log.String(), "host bad has joined"); n != logged {
		t.Errorf("to join with the key that it has is logged %d times", n-logged)
	}
	bad.rotate()
	next, _ := nkeys.CreateUser()
	public, _ := next.PublicKey()
	if joined := join(public); !strings.Contains(joined.Error, "less than a minute ago") {
		t.Errorf("two new keys in a minute: %+v", joined)
	}
}

// A host cannot fill the hub's memory with connections.
func TestConnections(t *testing.T) {
	l := newLab(t)
	h := l.join("a")
	public, _ := h.key.PublicKey()
	closed := make(chan struct{}, 30)
	for range cap(closed) {
		nc, err := nats.Connect(l.url, nats.Nkey(public, h.key.Sign), nats.Secure(wire.ClientTLS(h.token.Pin)), nats.NoReconnect(),
			nats.Timeout(patience), nats.ClosedHandler(func(*nats.Conn) { closed <- struct{}{} }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
	}
	for i := range cap(closed) - maxOfOneKey {
		select {
		case <-closed:
		case <-time.After(patience):
			t.Fatalf("%d of %d connections were ended", i, cap(closed))
		}
	}
}

// What is never to be banned is lifted by the next start.
func TestNever(t *testing.T) {
	l := newLab(t)
	h := l.join("a")
	w := h.watch()
	h.see(source(1), source(2))
	w.wait("bans", func() bool { return w.inForce() == 2 })
	l.set(`never = ["` + source(1).String() + `"]`)
	l.restart(h)
	w = h.watch()
	w.wait("the withdrawal", func() bool { return w.get(source(1)).Lifted })
	h.see(source(1), source(3))
	w.wait("the ban of another", func() bool { return w.get(source(3)).Step == 1 })
	if w.inForce() != 2 {
		t.Errorf("%d bans", w.inForce())
	}
}

// A host that was away gets what it missed, but not what has expired, and clocks
// that are minutes wrong make no difference.
func TestAway(t *testing.T) {
	l := newLab(t, `lengths = ["1m"]`)
	a, b := l.join("a"), l.join("b")
	w := b.watch()
	a.see(source(1))
	w.wait("a ban", func() bool { return w.inForce() == 1 })
	b.nc.Close()
	now := time.Now()
	for i, s := range []wire.Sighting{
		{At: now.Add(7 * time.Minute), Sent: now.Add(7 * time.Minute)},
		{At: now.Add(-7 * time.Minute), Sent: now.Add(-7 * time.Minute)},
		{At: now.Add(-58 * time.Second), Sent: now}, // of before the host could tell
		{At: now.Add(-2 * time.Minute), Sent: now},
	} {
		s.Source, s.Step, s.Cause = source(10+i), 1, wire.Trap
		data, err := wire.Encode(&s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.js.Publish(t.Context(), wire.SightingPrefix+"a", data); err != nil {
			t.Fatal(err)
		}
	}
	a.see(source(2))
	if err := b.connect(); err != nil {
		t.Fatal(err)
	}
	w = b.watch()
	w.wait("what it missed", func() bool { return w.get(source(2)).Step == 1 })
	for i := range 2 {
		ban := w.get(source(10 + i))
		if off := ban.Until().Sub(now.Add(time.Minute)); off.Abs() > 3*time.Minute {
			t.Errorf("by the clock of host a, the ban of %s ends %v too late", source(10+i), off)
		}
	}
	if ban := w.get(source(13)); ban.Step != 0 {
		t.Errorf("of before it came: %+v", ban)
	}
	for deadline := time.Now().Add(patience); ; {
		ban := w.get(source(12))
		if ban.Left(b.hello().Now) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v is in force for good", ban)
		}
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	l := &lab{t: t, dir: t.TempDir() + "/hub"}
	l.command("init", "--url", "tls://hub.example.net:4222", "--url", "tls://[2001:db8::1]:4222")
	c, err := (&cli{dir: l.dir}).load()
	if err != nil || len(c.URLs) != 2 || c.Pin == "" || len(c.judge.Quorum) != 3 || len(c.judge.Lengths) != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range [][]string{{"init", "--url", "tls://hub.example.net:4222"}, {"run", "--nats", "tls://127.0.0.1:1"}} {
		if _, errOut, code := l.try(args...); code != exitFailed || errOut == "" {
			t.Errorf("%v: code %d: %s", args, code, errOut)
		}
	}
	for _, args := range [][]string{{"init"}, {"init", "--url", "hub"}, {"invite"}, {"invite", "A"}, {"hosts", "x"}, {"nonsense"}, {}} {
		if _, errOut, code := l.try(args...); code != exitUsage || !strings.Contains(errOut, "--help") {
			t.Errorf("%v: code %d: %s", args, code, errOut)
		}
	}
	for setting, want := range map[string]string{
		"quota = 0": "quota", "quota = true": "line", "page = \"0.0.0.0:80\"": "page", "never = [\"x\"]": "never", "lengths = [\"1y\"]": "lengths",
		"quorum = { 1 = 2 }": "quorum", "replicas = 9": "replicas", "listen = \"x\"": "listen", "urls = []": "urls", "quota = 1\nnonsense = 1": "nonsense",
	} {
		copied := &lab{t: t, dir: t.TempDir() + "/hub"}
		copied.command("init", "--url", "tls://hub.example.net:4222")
		copied.set(setting)
		if _, errOut, code := copied.try("run"); code != exitUsage || !strings.Contains(errOut, want) {
			t.Errorf("%s: code %d: %s", setting, code, errOut)
		}
	}
	if _, errOut, _ := (&lab{t: t, dir: t.TempDir() + "/none"}).try("hosts"); !strings.Contains(errOut, "portmon-hub init") {
		t.Error(errOut)
	}
}
