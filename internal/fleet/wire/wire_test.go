package wire

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 11, 28, 15, 0, 0, 0, time.UTC)

func sighting() *Sighting {
	return &Sighting{Source: netip.MustParsePrefix("203.0.113.7/32"), Step: 1, Cause: Trap, Proto: 6, Port: 23, At: at, Sent: at.Add(time.Minute)}
}

func ban() *Ban {
	b := &Ban{Source: netip.MustParsePrefix("2001:db8:a:b::/64"), Step: 3, Length: 3600, Hosts: 500, First: at, Last: at.Add(time.Second)}
	for range MaxBy {
		b.By = append(b.By, Report{Host: strings.Repeat("h", 63), At: at.Add(123456789), Cause: Subnet, Proto: 255, Port: 65535})
	}
	return b
}

func TestSources(t *testing.T) {
	t.Parallel()
	for source, key := range map[string]string{
		"203.0.113.7/32":        "4-cb007107",
		"2001:db8:a::/64":       "6-20010db8000a0000",
		"2001:db8:a:b::/64":     "6-20010db8000a000b",
		"203.0.113.0/24":        "",
		"2001:db8::1/128":       "",
		"2001:db8::1/64":        "",
		"2001:db8::/48":         "",
		"::ffff:203.0.113.7/96": "",
		"10.0.0.1/32":           "",
		"100.64.1.1/32":         "",
		"127.0.0.1/32":          "",
		"0.0.0.0/32":            "",
		"0.1.2.3/32":            "",
		"169.254.1.1/32":        "",
		"224.0.0.1/32":          "",
		"255.255.255.255/32":    "",
		"240.0.0.1/32":          "",
		"::/64":                 "",
		"fe80::/64":             "",
		"fd00::/64":             "",
		"ff02::/64":             "",
		"64:ff9b::/64":          "",
	} {
		p := netip.MustParsePrefix(source)
		if good := CheckSource(p) == nil; good != (key != "") {
			t.Errorf("%s: good %v", source, good)
		} else if good {
			if got := Key(p); got != key {
				t.Errorf("%s has the key %s, not %s", source, got, key)
			}
			if back, err := ParseKey(key); err != nil || back != p {
				t.Errorf("%s is read as %v, %v", key, back, err)
			}
		}
	}
	for _, key := range []string{"", "4", "4-", "4-CB007107", "4-cb0071", "6-cb007107", "4-0a000001", "6-fe80000000000000", "5-cb007107", "4-cb00710x"} {
		if p, err := ParseKey(key); err == nil {
			t.Errorf("%q is read as %v", key, p)
		}
	}
	for a, want := range map[string]string{
		"203.0.113.7": "203.0.113.7/32", "::ffff:203.0.113.7": "203.0.113.7/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
	} {
		if got := SourceOf(netip.MustParseAddr(a)); got.String() != want {
			t.Errorf("the source of %s is %s", a, got)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "A", "a.b", "a*", ">", "a b", "ü", strings.Repeat("a", 64), "a\n"} {
		if CheckHost(name) == nil {
			t.Errorf("%q is a name", name)
		}
		if host, err := HostOf(SightingPrefix, SightingPrefix+name); err == nil {
			t.Errorf("%q is in a subject, as %q", name, host)
		}
	}
	if host, err := HostOf(SightingPrefix, "portmon.sighting.web-1"); err != nil || host != "web-1" {
		t.Error(host, err)
	}
	if host, err := HostOf(SightingPrefix, "portmon.hello.web-1"); err == nil {
		t.Error(host)
	}
}

// A sighting has its true time, whatever the host's clock says.
func TestWhen(t *testing.T) {
	t.Parallel()
	received := at.Add(5 * time.Hour)
	for _, test := range []struct{ sent, want time.Time }{
		{at.Add(time.Minute), received.Add(-time.Minute)},
		{at, received},
		{at.Add(-time.Hour), received}, // its clock was put back meanwhile
	} {
		s := sighting()
		s.Sent = test.sent
		if got := s.When(received); !got.Equal(test.want) {
			t.Errorf("sent %v: %v, want %v", test.sent, got, test.want)
		}
	}
}

func TestLeft(t *testing.T) {
	t.Parallel()
	b := ban()
	if got := b.Left(b.Last.Add(time.Minute)); got != 59*time.Minute {
		t.Error(got)
	}
	if got := b.Left(b.Last.Add(2 * time.Hour)); got != 0 {
		t.Error(got)
	}
	b.Length = int64(MaxLength / time.Second)
	if got := b.Left(at.Add(-time.Hour)); got != MaxLength { // by a hub's clock that was put back
		t.Error(got)
	}
	if b.Lifted = true; b.Left(b.Last) != 0 {
		t.Error("a withdrawal has time left")
	}
}

const key = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

func messages() []Message {
	return []Message{
		sighting(), ban(),
		&Hello{Version: "v1", Bans: 3, Queued: 1},
		&Answer{Now: at, Hosts: 3, Quorum: 1, Standing: Member, Created: at, Last: 7},
		&Tell{Standing: Quarantined, Reason: "more than 1,000 sources in 24 hours"},
		&Join{Key: key},
		&Joined{Kept: true},
		&Host{Key: key, Standing: Invited, Since: at, Expires: at.Add(time.Hour)},
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, m := range messages() {
		data, err := Encode(m)
		if err != nil {
			t.Errorf("%T: %v", m, err)
			continue
		}
		back := reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)
		if err := Decode(data, back); err != nil || !reflect.DeepEqual(m, back) {
			t.Errorf("%s is read as %+v, %v", data, back, err)
		}
		newer := append([]byte(`{"newer": {"a": [1]},`), data[1:]...)
		if err := Decode(newer, reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)); err != nil {
			t.Errorf("%s: %v", newer, err)
		}
		if err := Decode(append(data, strings.Repeat(" ", MaxMessage)...), back); !errors.Is(err, errTooLong) {
			t.Errorf("%T: %v", m, err)
		}
	}
}

// No message is taken for one of another kind: a server can be had to repeat one
// on the subject of another.
func TestKinds(t *testing.T) {
	t.Parallel()
	all := messages()
	acknowledgement := []byte(`{"type":"io.nats.jetstream.api.v1.pub_ack","stream":"BANS","seq":5}`)
	for _, strict := range []Message{new(Sighting), new(Ban), new(Tell), new(Host), new(Join)} {
		for _, m := range all {
			data, err := Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			_, answer := m.(*Answer)
			_, host := m.(*Host)
			_, tell := strict.(*Tell)
			_, join := strict.(*Join)
			if reflect.TypeOf(strict) == reflect.TypeOf(m) || tell && (answer || host) || join && host {
				continue // of which one contains the other, and is no harm
			}
			if err := Decode(data, reflect.New(reflect.TypeOf(strict).Elem()).Interface().(Message)); err == nil {
				t.Errorf("%s is taken for a %T", data, strict)
			}
		}
		if err := Decode(acknowledgement, strict); err == nil {
			t.Errorf("%s is taken for a %T", acknowledgement, strict)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for what, m := range map[string]Message{
		"network":      with(sighting(), func(s *Sighting) { s.Source = netip.MustParsePrefix("203.0.113.0/24") }),
		"no source":    with(sighting(), func(s *Sighting) { s.Source = netip.Prefix{} }),
		"private":      with(sighting(), func(s *Sighting) { s.Source = netip.MustParsePrefix("192.168.1.1/32") }),
		"step 0":       with(sighting(), func(s *Sighting) { s.Step = 0 }),
		"step 17":      with(sighting(), func(s *Sighting) { s.Step = 17 }),
		"cause":        with(sighting(), func(s *Sighting) { s.Cause = "\x1b[31m" }),
		"no time":      with(sighting(), func(s *Sighting) { s.At = time.Time{} }),
		"old":          with(sighting(), func(s *Sighting) { s.Sent = at.Add(MaxAge + 1) }),
		"length 0":     with(ban(), func(b *Ban) { b.Length = 0 }),
		"length":       with(ban(), func(b *Ban) { b.Length = int64(MaxLength/time.Second) + 1 }),
		"many":         with(ban(), func(b *Ban) { b.By = append(b.By, b.By[0]) }),
		"host":         with(ban(), func(b *Ban) { b.By[7].Host = "<b>" }),
		"report":       with(ban(), func(b *Ban) { b.By[7].At = time.Time{} }),
		"standing":     &Tell{Standing: "good"},
		"reason":       &Tell{Standing: Member, Reason: strings.Repeat("a", 201)},
		"version":      &Hello{Version: strings.Repeat("a", 201)},
		"queue":        &Hello{Queued: -1},
		"quorum":       &Answer{Now: at, Standing: Member},
		"key":          &Join{Key: "S" + key[1:]},
		"key of none":  &Host{Standing: Member, Since: at},
		"joined":       &Joined{Error: strings.Repeat("a", 201)},
		"since always": &Host{Key: key, Standing: Member},
	} {
		if data, err := Encode(m); err == nil {
			t.Errorf("%s: %s", what, data)
		}
	}
	for _, data := range []string{"", "null", "[]", `"x"`, `{"source":"203.0.113.7"}`, "{\"standing\":\"member\",\"reason\":\"\xff\"}", "{}"} {
		for _, m := range []Message{new(Sighting), new(Ban), new(Tell), new(Host)} {
			if Decode([]byte(data), m) == nil {
				t.Errorf("%q is a %T", data, m)
			}
		}
	}
}

func with[M any](m *M, change func(*M)) *M {
	change(m)
	return m
}

const seed = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"

func TestToken(t *testing.T) {
	t.Parallel()
	token := &Token{URLs: []string{"tls://hub.example.net:4222", "tls://[2001:db8::1]:4222"}, Host: "web-1", Seed: seed,
		Pin: "sha256:" + strings.Repeat("a", 43)}
	s := token.String()
	if back, err := ParseToken(" " + s + "\n"); err != nil || !reflect.DeepEqual(back, token) {
		t.Errorf("%s is read as %+v, %v", s, back, err)
	}
	for i := range s {
		if back, err := ParseToken(s[:i]); err == nil {
			t.Errorf("the first %d characters are a token: %+v", i, back)
		}
	}
	for _, u := range []string{"", "hub", "tls://hub", "http://hub:1", "tls://user@hub:1", "tls://hub:1/x", "tls://hub:123456", "tls://h\x1b:1"} {
		if CheckURL(u) == nil {
			t.Errorf("%q is a URL", u)
		}
	}
}

func TestPin(t *testing.T) {
	t.Parallel()
	ca, other := authority(t), authority(t)
	leaf := ca.sign(t)
	for _, test := range []struct {
		what  string
		pin   string
		chain [][]byte
		good  bool
	}{
		{"signed by the pinned key", Pin(ca.cert), [][]byte{leaf.cert.Raw, ca.cert.Raw}, true},
		{"the pinned key itself", Pin(leaf.cert), [][]byte{leaf.cert.Raw}, true},
		{"signed by another", Pin(other.cert), [][]byte{leaf.cert.Raw, ca.cert.Raw}, false},
		{"beside a certificate that is not its own", Pin(other.cert), [][]byte{leaf.cert.Raw, other.cert.Raw}, false},
	} {
		client, server := net.Pipe()
		failed := make(chan error, 1)
		go func() {
			defer server.Close()
			failed <- tls.Server(server, &tls.Config{
				Certificates: []tls.Certificate{{Certificate: test.chain, PrivateKey: leaf.key}},
			}).Handshake()
		}()
		err := tls.Client(client, ClientTLS(test.pin)).Handshake()
		client.Close()
		<-failed
		if test.good != (err == nil) || err != nil && !errors.Is(err, ErrPin) {
			t.Errorf("%s: %v", test.what, err)
		}
	}
}

type identity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func authority(t *testing.T) identity { return identity{}.sign(t) }

// sign returns an identity that another one vouches for, or that does itself.
func (by identity) sign(t *testing.T) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hub"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: by.key == nil, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if by.key == nil {
		by = identity{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return identity{cert, key}
}

// FuzzDecode decodes anything as everything: what is good must be the same when
// it is encoded and decoded again.
func FuzzDecode(f *testing.F) {
	for _, m := range messages() {
		data, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range messages() {
			kind := reflect.TypeOf(m).Elem()
			first, second := reflect.New(kind).Interface().(Message), reflect.New(kind).Interface().(Message)
			if Decode(data, first) != nil {
				continue
			}
			again, err := Encode(first)
			if errors.Is(err, errTooLong) {
				continue // escapes and times can be written shorter
			}
			if err == nil {
				err = Decode(again, second)
			}
			third, _ := Encode(second)
			if err != nil || string(third) != string(again) {
				t.Errorf("%T: %q became %q and %q: %v", m, data, again, third, err)
			}
		}
		if token, err := ParseToken(string(data)); err == nil {
			if again, err := ParseToken(token.String()); err != nil || !reflect.DeepEqual(token, again) {
				t.Errorf("%+v became %+v: %v", token, again, err)
			}
		}
	})
}
