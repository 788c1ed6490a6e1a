package journal

import (
	"context"
	"log/slog"
	"time"

	"github.com/portmon/portmon/internal/ledger"
)

// again is how long a fault is not told again that stays the same.
const again = time.Minute

type fault struct {
	text   string
	at     ledger.Instant
	silent int // how often it was not told since
}

// Fault writes what went wrong; the same no more than once a minute, with the count of what was left out.
func (j *Journal) Fault(err error, now ledger.Now) {
	if text := err.Error(); text == j.fault.text && now.Mono.Sub(j.fault.at) < again {
		j.fault.silent++
		return
	}
	j.flushFault()
	j.fault = fault{text: err.Error(), at: now.Mono}
	j.log.Warn(j.fault.text)
}

func (j *Journal) flushFault() {
	if j.fault.silent > 0 {
		j.log.LogAttrs(context.Background(), slog.LevelWarn, j.fault.text, slog.Int("times", j.fault.silent))
		j.fault.silent = 0
	}
}
