// Package capture reads packets from captures (pcap, pcapng) and from the
// kernel's log of packets (iptables LOG, nft log, ufw; in files of syslog and
// in what dmesg and journalctl print), each of them as it is or in gzip. Lines
// of a log become IP headers, so that nothing above knows of logs.
//
// Files come from anywhere. Whatever is in them, a [Reader] holds at most a
// record and a buffer in memory, and does not trust a length that it is told.
package capture

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/portmon/portmon/internal/text"
)

// Packet is an IP packet, or as much of it as was captured.
type Packet struct {
	Time    time.Time
	In      string // the interface that it came in by, "" if that is not known or it was sent
	Data    []byte // from the IP header on; valid until the next Read, checksums may be 0
	Path    Path
	Verdict Verdict
}

// Path is the way of a packet through the host, as far as a file tells it.
type Path uint8

// The ways of packets.
const (
	PathUnknown Path = iota
	Received         // addressed to this host's link address: for itself, or to be forwarded
	Sent             // by this host
	Forwarded        // through this host
	Elsewhere        // a broadcast, a multicast, or for another host of the link
)

// Verdict is what the firewall of then did with a packet, as the prefix of a
// line of the log says. Captures do not tell.
type Verdict uint8

// The verdicts.
const (
	VerdictUnknown Verdict = iota
	Dropped                // as "[UFW BLOCK] " says
	Accepted               // as "[UFW ALLOW] " says
)

// MaxDisorder is how far back time may go from one packet to the next. Several
// queues of a card are in disorder by milliseconds, and local time, which most
// logs have, goes back by an hour once a year.
const MaxDisorder = 2 * time.Hour

// ErrDisorder means that the time of a record is long before that of the one
// before it: a clock was set, or files were joined in the wrong order.
var ErrDisorder = errors.New("packets are out of order")

// DamageError says that one record of a file cannot be used. Reading goes on
// behind it.
type DamageError struct {
	File   string
	Line   int   // of a log, or 0
	Offset int64 // where the record begins, in what is in the file after gzip
	Err    error
}

func (e *DamageError) Error() string { return position(e.File, e.Line, e.Offset) + e.Err.Error() }
func (e *DamageError) Unwrap() error { return e.Err }

func position(file string, line int, offset int64) string {
	if line > 0 {
		return fmt.Sprintf("%s, line %d: ", text.Printable(file), line)
	}
	return fmt.Sprintf("%s, offset %d: ", text.Printable(file), offset)
}

// format reads the records of one kind of file. Its errors are io.EOF, damage
// if reading can go on, or else what ends it.
type format interface {
	read(p *Packet) error
}

// damage is an error of one record.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func damagef(format string, args ...any) error { return damage{fmt.Errorf(format, args...)} }

// Read returns the next IP packet; what is none is passed over. The error is
// io.EOF at the end, and a *[DamageError] if one record cannot be used: the next
// Read goes on behind it. After any other error there is no more. Times do not
// decrease, except after a DamageError that is [ErrDisorder].
func (r *Reader) Read() (Packet, error) {
	if r.err != nil {
		return Packet{}, r.err
	}
	r.packet = Packet{}
	err := r.format.read(&r.packet)
	if err == nil {
		err = r.order(&r.packet)
	}
	if err == nil {
		return r.packet, nil
	}
	if err == io.EOF {
		r.err = err
		return Packet{}, err
	}
	if d := (damage{}); errors.As(err, &d) {
		return Packet{}, &DamageError{r.name, r.in.line, r.in.start, d.error}
	}
	r.err = fmt.Errorf("read %s%w", position(r.name, r.in.line, r.in.start), err)
	return Packet{}, r.err
}

// order has time stand still where it would go back a little.
func (r *Reader) order(p *Packet) error {
	back := r.last.Sub(p.Time)
	switch {
	case back > MaxDisorder && !r.last.IsZero():
		last := r.last
		r.last = p.Time
		return damagef("%w: time goes back by %s to %s", ErrDisorder, text.ShortDuration(last.Sub(p.Time)), p.Time.Format(time.RFC3339))
	case back > 0:
		p.Time = r.last
	}
	r.last = p.Time
	return nil
}
