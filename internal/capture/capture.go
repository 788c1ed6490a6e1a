// Package capture reads packets from captures (pcap, pcapng) and from the
// kernel's log (iptables LOG, nft log, ufw; in syslog files and in the output
// of dmesg and journalctl), plain or gzipped. Log lines become IP headers, so
// that callers need not know about logs.
//
// Files come from anywhere. Whatever is in them, a [Reader] holds at most one
// record and one buffer in memory, and trusts no length that a file states.
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
	Time time.Time
	In   string // the interface it arrived on; "" if unknown, or if it was sent
	Data []byte // from the IP header on; valid until the next Read, checksums may be 0
	Path Path
	// Accepted reports that the firewall that logged it let it in, as the prefix
	// "[UFW ALLOW] " says. Captures do not tell.
	Accepted bool
}

// Path is the direction of a packet, as far as the file tells it.
type Path uint8

// The directions of packets.
const (
	PathUnknown Path = iota
	Received         // sent to this host's link address: for the host itself, or to be forwarded
	Sent             // by this host
	Forwarded        // through this host
	Elsewhere        // a broadcast, a multicast, or for another host on the link
)

// MaxDisorder is how far back time may go from one packet to the next. The
// queues of a network card are out of step by milliseconds, and local time,
// which most logs use, goes back by an hour once a year.
const MaxDisorder = 2 * time.Hour

// ErrDisorder means that a record is much older than the one before it: a clock
// was set, or files were joined in the wrong order.
var ErrDisorder = errors.New("packets are out of order")

// DamageError reports a record that cannot be used. Reading continues after it.
type DamageError struct {
	File   string
	Line   int   // of a log, or 0
	Offset int64 // where the record begins, after decompression
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
// if reading can continue, and anything else if it cannot.
type format interface {
	read(p *Packet) error
}

// damage is an error that concerns one record only.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func damagef(format string, args ...any) error { return damage{fmt.Errorf(format, args...)} }

// Read returns the next IP packet, and skips everything else. The error is
// io.EOF at the end, and a *[DamageError] if a record cannot be used; the next
// Read continues after that record. Any other error is final. Times do not
// decrease, except with a DamageError that is [ErrDisorder], which comes with the
// packet: nothing is wrong with that but its time.
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
		if !errors.Is(err, ErrDisorder) {
			r.packet = Packet{}
		}
		return r.packet, &DamageError{r.name, r.in.line, r.in.start, d.error}
	}
	r.err = fmt.Errorf("read %s%w", position(r.name, r.in.line, r.in.start), err)
	return Packet{}, r.err
}

// order makes time stand still where it would go back a little.
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
