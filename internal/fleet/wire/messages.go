package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"time"
	"unicode/utf8"
)

// Bounds of messages.
const (
	MaxMessage = 2 << 10 // bytes of any message
	MaxStep    = 16
	MaxBy      = 8                   // reports that a ban carries
	MaxLength  = 30 * 24 * time.Hour // of a ban
	MaxAge     = 7 * 24 * time.Hour  // of what is still a sighting
	MaxHosts   = 1 << 20
	maxText    = 200 // bytes of a reason
)

// Cause is why a host banned a source.
type Cause string

// The causes.
const (
	Trap   Cause = "trap"
	Scan   Cause = "scan"
	Subnet Cause = "subnet"
	Hand   Cause = "hand"
)

// Sighting is an offence that a host saw.
type Sighting struct {
	Source netip.Prefix `json:"source"` // see [CheckSource]
	Step   int          `json:"step"`   // of the host's own ban, from 1
	Cause  Cause        `json:"cause"`
	Proto  uint8        `json:"proto,omitempty"` // number of the IP protocol, 0 if not known
	Port   uint16       `json:"port,omitempty"`
	At     time.Time    `json:"at"`   // by the host's clock
	Sent   time.Time    `json:"sent"` // by the same clock
}

// When returns when it was, by the clock of the stream that got it at a moment.
// The host's clock may be wrong by any time.
func (s *Sighting) When(received time.Time) time.Time { return received.Add(-max(0, s.Sent.Sub(s.At))) }

// Ban is what a hub says of a source.
type Ban struct {
	Source netip.Prefix `json:"source"`
	Step   int          `json:"step"`
	Length int64        `json:"length"` // in seconds, from Last
	Hosts  int          `json:"hosts"`  // that saw it
	By     []Report     `json:"by"`     // the last of them, at most [MaxBy]
	First  time.Time    `json:"first"`  // sighting, by the hub's clock
	Last   time.Time    `json:"last"`
	// Lifted says that the ban is over, and all else what it was.
	Lifted bool `json:"lifted,omitempty"`
	// Forgiven is when somebody lifted it at the hub: what was seen until then
	// does not count.
	Forgiven time.Time `json:"forgiven,omitzero"`
}

// Until returns the end of the ban by the hub's clock.
func (b *Ban) Until() time.Time { return b.Last.Add(time.Duration(b.Length) * time.Second) }

// Left returns the time that the ban still has at a moment of the hub's clock,
// and 0 if it is over. It does not depend on when the message was stored, so
// that to repeat a message prolongs nothing.
func (b *Ban) Left(now time.Time) time.Duration {
	if b.Lifted {
		return 0
	}
	return min(max(0, b.Until().Sub(now)), MaxLength)
}

// Report is a host's part in a ban.
type Report struct {
	Host  string    `json:"host"`
	At    time.Time `json:"at"` // its last sighting, by the hub's clock
	Cause Cause     `json:"cause"`
	Proto uint8     `json:"proto,omitempty"`
	Port  uint16    `json:"port,omitempty"`
}

// Standing is how a hub sees a host.
type Standing string

// The standings.
const (
	Invited     Standing = "invited" // has a token, and was not here yet
	Member      Standing = "member"
	Quarantined Standing = "quarantined" // said too much: what it says does not count
	Revoked     Standing = "revoked"
)

// Hello is a host's sign of life.
type Hello struct {
	Version string `json:"version,omitempty"`
	Observe bool   `json:"observe,omitempty"` // drops nothing
	Off     bool   `json:"off,omitempty"`     // shares, and has no bans of the fleet
	Bans    int    `json:"bans"`              // of the fleet in its sets
	Queued  int    `json:"queued"`            // sightings that wait
	Dropped int    `json:"dropped"`           // sightings that found no room
}

// Answer is a hub's to a hello.
type Answer struct {
	Now      time.Time `json:"now"` // by the hub's clock
	Hosts    int       `json:"hosts"`
	Quorum   int       `json:"quorum"`
	Standing Standing  `json:"standing"`
	Reason   string    `json:"reason,omitempty"` // of a standing that is not good
	// Created and Last tell whether a host can go on in the stream of bans from
	// the sequence that it has seen.
	Created time.Time `json:"created"`
	Last    uint64    `json:"last"`
}

// Tell is news of its standing to a host.
type Tell struct {
	Standing Standing `json:"standing"`
	Reason   string   `json:"reason,omitempty"`
}

// Join asks a hub to know the host by another key from now on.
type Join struct {
	Key string `json:"key"` // public nkey of a user
}

// Joined is the answer.
type Joined struct {
	// Kept says that the hub cannot change the users of its server, so that the
	// key of the token stays.
	Kept  bool   `json:"kept,omitempty"`
	Error string `json:"error,omitempty"`
}

// Host is what hubs remember of a host.
type Host struct {
	Key      string    `json:"key"`
	Standing Standing  `json:"standing"`
	Since    time.Time `json:"since"` // that is its standing
	Reason   string    `json:"reason,omitempty"`
	Expires  time.Time `json:"expires,omitzero"` // of an invitation
	// From is when it became a member, or one again: what it said before then
	// does not count, neither for bans nor for its quota.
	From time.Time `json:"from,omitzero"`
}

// Message is what is sent: a pointer to one of the types here.
type Message interface{ check() error }

// Encode returns a message as it is sent, if it is one that may be.
func Encode(m Message) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(m)
	if err == nil && len(data) > MaxMessage {
		err = errTooLong
	}
	return data, err
}

var errTooLong = fmt.Errorf("longer than %d bytes", MaxMessage)

// Decode reads a message, and checks it. What it does not know, as of a newer
// version, it leaves out. The error never repeats what it read.
func Decode(data []byte, m Message) error {
	if len(data) > MaxMessage {
		return errTooLong
	}
	if !utf8.Valid(data) || json.Unmarshal(data, m) != nil {
		return errors.New("not a message of this kind")
	}
	return m.check()
}

func (s *Sighting) check() error {
	switch {
	case CheckSource(s.Source) != nil:
		return errSource
	case s.Step < 1 || s.Step > MaxStep:
		return errors.New("step out of range")
	case !saneTime(s.At) || !saneTime(s.Sent) || s.Sent.Sub(s.At) > MaxAge:
		return errors.New("too old, or without a time")
	}
	return s.Cause.check()
}

func (c Cause) check() error {
	switch c {
	case Trap, Scan, Subnet, Hand:
		return nil
	}
	return errors.New("unknown cause")
}

func (b *Ban) check() error {
	switch {
	case CheckSource(b.Source) != nil:
		return errSource
	case b.Step < 1 || b.Step > MaxStep, b.Length < 1 || b.Length > int64(MaxLength/time.Second):
		return errors.New("step or length out of range")
	case b.Hosts < 0 || b.Hosts > MaxHosts || len(b.By) > MaxBy:
		return errors.New("too many reports")
	case !saneTime(b.First) || !saneTime(b.Last) || !b.Forgiven.IsZero() && !saneTime(b.Forgiven):
		return errors.New("without a time")
	}
	for _, r := range b.By {
		if err := errors.Join(CheckHost(r.Host), r.Cause.check()); err != nil {
			return err
		}
		if !saneTime(r.At) {
			return errors.New("report without a time")
		}
	}
	return nil
}

func (s Standing) check() error {
	switch s {
	case Invited, Member, Quarantined, Revoked:
		return nil
	}
	return errors.New("unknown standing")
}

func (h *Hello) check() error {
	if len(h.Version) > maxText || h.Bans < 0 || h.Queued < 0 || h.Dropped < 0 {
		return errors.New("out of range")
	}
	return nil
}

func (a *Answer) check() error {
	if !saneTime(a.Now) || a.Hosts < 0 || a.Hosts > MaxHosts || a.Quorum < 1 || a.Quorum > MaxHosts || len(a.Reason) > maxText {
		return errors.New("out of range")
	}
	return a.Standing.check()
}

func (t *Tell) check() error {
	if len(t.Reason) > maxText {
		return errors.New("reason too long")
	}
	return t.Standing.check()
}

var userKeyForm = regexp.MustCompile(`^U[A-Z2-7]{55}$`)

func (j *Join) check() error { return checkUserKey(j.Key) }

func checkUserKey(key string) error {
	if !userKeyForm.MatchString(key) {
		return errors.New("not the public nkey of a user")
	}
	return nil
}

func (j *Joined) check() error {
	if len(j.Error) > maxText {
		return errors.New("error too long")
	}
	return nil
}

func (h *Host) check() error {
	if !saneTime(h.Since) || len(h.Reason) > maxText {
		return errors.New("out of range")
	}
	return errors.Join(checkUserKey(h.Key), h.Standing.check())
}

// saneTime bounds what is calculated with, and what JSON can hold.
func saneTime(t time.Time) bool { return t.Year() >= 1971 && t.Year() < 9000 }
