package nftset

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// BatchSize is how many elements to put into one transaction, at most, if they
// need not take effect at once: any listener on the nftables multicast group
// costs the kernel about 8 KB for each element until the commit.
const BatchSize = 8192

// Commit runs a transaction: all of it, or nothing. A failure is an *OpError
// for the first operation that failed. An empty transaction does nothing.
func (c *Conn) Commit(tx *Tx) error { return c.run(tx, true) }

// Check asks the kernel whether a transaction would succeed, and changes
// nothing: the kernel runs it and, missing the end of the batch, takes all of
// it back.
func (c *Conn) Check(tx *Tx) error { return c.run(tx, false) }

func (c *Conn) run(tx *Tx, commit bool) error {
	if tx.err != nil {
		return tx.err
	}
	if len(tx.ops) == 0 {
		return nil
	}
	// One acknowledgement is enough, that of the last operation; errors come
	// for every operation without asking. More would only fill the receive
	// buffer: beyond some 200 the kernel returns ENOBUFS although it has
	// committed.
	flags := tx.enc.b[tx.ops[len(tx.ops)-1].at+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)

	pieces := [][]byte{batchFrame(unix.NFNL_MSG_BATCH_BEGIN, tx.Generation), tx.enc.b}
	if commit {
		pieces = append(pieces, batchFrame(unix.NFNL_MSG_BATCH_END, 0))
	}
	// Errors that did not fit the receive buffer are lost, not the first.
	var first *OpError
	acked := false
	err := c.exchange(func(m nfnl.Message) error {
		if m.Type != unix.NLMSG_ERROR {
			return nil
		}
		r, err := nfnl.ParseReply(m)
		switch {
		case err != nil:
			return err
		case r.Errno == nil:
			acked = true
		case first == nil:
			first = tx.describe(m.Seq, r)
		default:
			first.Others++
		}
		return nil
	}, pieces...)
	switch lost := errors.Is(err, unix.ENOBUFS); {
	case first != nil && (err == nil || lost):
		return first
	case acked && lost:
		return nil
	case err == nil && !acked:
		err = errNoAnswer
	}
	if err != nil {
		return &OpError{Op: "commit transaction", Err: err}
	}
	return nil
}
