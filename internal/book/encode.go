package book

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/ruleset"
)

const rowStart = `{"prefix":"`

// appendRow writes a normalized row with dates of that clock. By hand, because
// half a million of them are to take less than a second.
func appendRow(b []byte, r *Row, c Clock, merge bool) []byte {
	date := func(key string, m Moment) {
		b = append(c.Time(m).UTC().AppendFormat(append(b, key...), time.RFC3339Nano), '"')
	}
	b = append(r.Source.AppendTo(append(b, rowStart...)), '"')
	if merge {
		b = append(b, `,"merge":true`...)
	}
	switch {
	case r.Banned && r.Timeout == 0:
		b = append(b, `,"permanent":true`...)
	case r.Banned:
		b = appendSeconds(append(b, `,"timeout_seconds":`...), r.Timeout)
		date(`,"until":"`, r.Until)
	}
	if r.Step > 0 {
		b = strconv.AppendInt(append(b, `,"tier":`...), int64(r.Step), 10)
		date(`,"tier_until":"`, r.StepUntil)
	}
	if r.Cause != ruleset.CauseUnknown {
		b = append(append(append(b, `,"cause":"`...), r.Cause.String()...), '"')
	}
	if r.Offences > 0 {
		b = strconv.AppendInt(append(b, `,"offences":`...), int64(r.Offences), 10)
	}
	if r.First != 0 && r.First != r.Last {
		date(`,"first":"`, r.First)
	}
	if r.Last != 0 {
		date(`,"last":"`, r.Last)
	}
	if r.Proto != 0 {
		b = strconv.AppendInt(append(b, `,"last_protocol":`...), int64(r.Proto), 10)
		b = strconv.AppendInt(append(b, `,"last_port":`...), int64(r.Port), 10)
	}
	if r.ByHand {
		b = append(b, `,"by_hand":true`...)
	}
	if r.Comment != "" {
		quoted, err := json.Marshal(r.Comment) // any text stays on its line
		if err != nil {
			panic("a string is always JSON: " + err.Error())
		}
		b = append(append(b, `,"comment":`...), quoted...)
	}
	return append(b, "}\n"...)
}

// appendFree writes that a source is unbanned and forgotten.
func appendFree(b []byte, source netip.Prefix) []byte {
	return append(source.AppendTo(append(b, rowStart...)), "\",\"free\":true}\n"...)
}

// appendSeconds writes a duration to the millisecond.
func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// Encode writes rows for [Decode].
func Encode(w io.Writer, o Origin, now Clock, rows iter.Seq[Row]) error {
	return encode(w, newHeader(o, now), rows)
}

func encode(w io.Writer, h Header, rows iter.Seq[Row]) error {
	buf := bufio.NewWriterSize(w, 256<<10)
	line := h.append(nil)
	_, err := buf.Write(line)
	for r := range rows {
		if err != nil {
			return err
		}
		if r, _, ok := r.normalize(); ok {
			line = appendRow(line[:0], &r, h.Clock(), false)
			_, err = buf.Write(line)
		}
	}
	return errors.Join(err, buf.Flush())
}
