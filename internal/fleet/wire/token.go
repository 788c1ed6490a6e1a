package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Token is what a host needs to join a fleet. It is a secret.
type Token struct {
	URLs []string `json:"urls"` // of the hubs: tls://host:port
	Host string   `json:"host"` // its name in the fleet
	Seed string   `json:"seed"` // of an nkey that is good for joining
	Pin  string   `json:"pin"`  // see [Pin]; empty if the system's own authorities vouch for the server
}

// tokenPrefix lets people and scanners of secrets recognise a token.
const tokenPrefix = "portmon-fleet-1_"

const maxURLs = 8

var (
	seedForm = regexp.MustCompile(`^SU[A-Z2-7]{56}$`)
	pinForm  = regexp.MustCompile(`^sha256:[A-Za-z0-9_-]{43}$`)
	// A host in it is a name, or an address, in brackets if it is IPv6.
	urlForm = regexp.MustCompile(`^(tls|nats)://([a-zA-Z0-9.-]{1,253}|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$`)
)

// CheckURL reports what is wrong with the URL of a hub.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Port() == "" || !urlForm.MatchString(s) {
		return errors.New("want a URL such as tls://hub.example.net:4222")
	}
	return nil
}

// Check reports what is wrong with a token.
func (t *Token) Check() error {
	if !seedForm.MatchString(t.Seed) {
		return errors.New("not the seed of a user")
	}
	return t.CheckFleet()
}

// CheckFleet reports what is wrong with all of it but the seed.
func (t *Token) CheckFleet() error {
	if len(t.URLs) == 0 || len(t.URLs) > maxURLs {
		return fmt.Errorf("want 1 to %d URLs of hubs", maxURLs)
	}
	for _, u := range t.URLs {
		if err := CheckURL(u); err != nil {
			return err
		}
	}
	if t.Pin != "" && !pinForm.MatchString(t.Pin) {
		return errors.New("not a pin of a certificate")
	}
	return CheckHost(t.Host)
}

// String returns the token in one word of letters, digits, - and _.
func (t *Token) String() string {
	data, _ := json.Marshal(t) // of strings alone
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(data)
}

// ParseToken reads a token. The error does not repeat it.
func ParseToken(s string) (*Token, error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok || len(body) > 4*MaxMessage {
		return nil, fmt.Errorf("want a token that `portmon-hub invite` printed, which begins with %s", tokenPrefix)
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(body)
	t := new(Token)
	if err == nil {
		err = json.Unmarshal(data, t)
	}
	if err != nil || t.Check() != nil {
		return nil, errors.New("the token is incomplete or damaged: copy all of it")
	}
	return t, nil
}

// Pin returns what recognises the key of a certificate.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// ErrPin is the error for a server that the pinned key does not vouch for.
var ErrPin = errors.New("the server has another key than the hub that the token is from")

// ClientTLS returns how a host connects to its hub. With a pin, the server has
// to have that key, or a certificate that was signed by it: names do not count,
// since that key signs nothing but hubs. Without one, the system's authorities
// and the name decide.
func ClientTLS(pin string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if pin == "" {
		return c
	}
	c.InsecureSkipVerify = true // in favour of:
	c.VerifyConnection = func(state tls.ConnectionState) error { return verifyPin(pin, state.PeerCertificates) }
	return c
}

func verifyPin(pin string, chain []*x509.Certificate) error {
	for i, c := range chain {
		if Pin(c) != pin {
			continue
		}
		if i == 0 {
			return nil
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots}); err != nil {
			return fmt.Errorf("%w: %w", ErrPin, err)
		}
		return nil
	}
	return ErrPin
}
