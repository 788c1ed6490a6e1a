package notice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

const (
	abuseURL = "https://api.abuseipdb.com/api/v2/report"
	portScan = "14" // the category
	// maxReports a day leaves some of the 1,000 free ones to other programs.
	maxReports = 900
	// maxQueued is how many offences may wait while a report is being retried.
	maxQueued = 100
	// minApart is how long at least the ban of a source must have been that was
	// over when it offended again.
	minApart = 2 * time.Minute
	// MinPorts is how many ports a source must have probed.
	MinPorts = 3
	// afterFailure is how long nothing is reported after a report was given up:
	// the key may be wrong, or the quota used up by others.
	afterFailure = time.Hour
	// ledgerName is the file beside the state that lists today's reports.
	ledgerName = "reported.json"
	maxLedger  = 128 << 10 // bytes, of maxReports addresses
)

// reporter reports offenders to AbuseIPDB, each once a day, and only if their
// packets are unlikely to be forged. A SYN proves nothing about its source, and
// nothing listens on the ports of an offence to shake hands with it. So a
// source must have offended again after a ban of minutes, and must have
// probed several ports. The kernel is asked for that when the report is due:
// the source must still be banned then, and neither whitelisted nor allowed.
//
// Networks are not reported, because the address is not known. Reports contain
// no address or name of this host.
type reporter struct {
	url, keyFile, folder string
	client               *http.Client
	proven               func(*watch.News) (bool, error)
	report               func(error)
	backoff              []time.Duration
	queue                chan event
	paused               time.Time // nothing is reported until then

	sent, failed atomic.Uint64
}

// tell queues the news that may be worth a report.
func (r *reporter) tell(news []watch.News, ladder []time.Duration, now book.Clock) {
	for _, n := range news {
		if !isReportable(&n, ladder) {
			continue
		}
		select {
		case r.queue <- event{News: n, at: now}:
		default:
			r.failed.Add(1)
		}
	}
}

// isReportable reports whether news is about a source that has offended again
// over TCP, from a public address.
func isReportable(n *watch.News, ladder []time.Duration) bool {
	return n.Kind == watch.Escalated && !n.Observed && n.Proto == 6 &&
		(n.Cause == ruleset.CauseTrap || n.Cause == ruleset.CauseScan) &&
		n.Step >= 2 && n.Step <= len(ladder) && ladder[n.Step-2] >= minApart &&
		n.Source.IsSingleIP() && isPublic(n.Source.Addr())
}

// special are the prefixes from which no packet can come over the internet (RFC
// 6890 and its successors), or only packets of unrelated hosts.
var special = func() (all []netip.Prefix) {
	for s := range strings.FieldsSeq(`100.64.0.0/10 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24
		203.0.113.0/24 240.0.0.0/4 2001::/23 2001:db8::/32 2002::/16 3fff::/20`) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}()

func isPublic(a netip.Addr) bool {
	if a.Is6() && !netip.MustParsePrefix("2000::/3").Contains(a) {
		return false
	}
	return a.IsGlobalUnicast() && !a.IsPrivate() &&
		!slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

// run reports until ctx ends.
func (r *reporter) run(ctx context.Context) {
	for {
		select {
		case e := <-r.queue:
			r.handle(ctx, &e)
		case <-ctx.Done():
			return
		}
	}
}

// handle reports a source. After a failure, nothing is reported for a while.
func (r *reporter) handle(ctx context.Context, e *event) {
	if time.Now().Before(r.paused) {
		r.failed.Add(1)
	} else if err := r.tryReport(ctx, e); err != nil && ctx.Err() == nil {
		r.failed.Add(1)
		r.paused = time.Now().Add(afterFailure)
		r.report(fmt.Errorf("%w (nothing is reported for %s)", err, text.Duration(afterFailure)))
	}
}

// tryReport reports a source, unless that has been done today or is not to be.
func (r *reporter) tryReport(ctx context.Context, e *event) error {
	l, err := r.readLedger(e.at.Wall)
	if err != nil {
		return err
	}
	source := e.Source.Addr()
	if slices.Contains(l.Sources, source) || len(l.Sources) >= maxReports {
		return nil
	}
	if proven, err := r.proven(&e.News); err != nil || !proven {
		return err
	}
	// This comes first, so that nothing is sent twice if the watcher ends between.
	l.Sources = append(l.Sources, source)
	if err := r.writeLedger(l); err != nil {
		return err
	}
	_, err = try(ctx, r.backoff, r.report, func() error { return r.post(ctx, e) })
	if err == nil {
		r.sent.Add(1)
	}
	return err
}

// post sends a report. Its errors do not show the key.
func (r *reporter) post(ctx context.Context, e *event) error {
	form := url.Values{
		"ip": {e.Source.Addr().String()}, "categories": {portScan}, "timestamp": {e.at.Wall.UTC().Format(time.RFC3339)},
		"comment": {fmt.Sprintf("Port scan: packets to closed TCP ports, the last to port %d; banned again after %s",
			e.Port, text.Plural(e.Offences, "offence"))},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, strings.NewReader(form.Encode()))
	if err == nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Accept", "application/json")
		var key string
		if key, err = readToken(r.keyFile); err != nil {
			err = &temporaryError{error: err} // the file may be about to be replaced
		} else {
			req.Header.Set("Key", key)
			err = do(r.client, req, key)
		}
	}
	if err != nil {
		err = fmt.Errorf("report %s to AbuseIPDB: %w", e.Source.Addr(), err)
	}
	return err
}

// ledger lists the sources that were reported on a day.
type ledger struct {
	Day     string       `json:"day"`
	Sources []netip.Addr `json:"sources"`
}

// readLedger returns the ledger of the day, or an empty one. If the clock was set
// back, it may be of a later day: to begin anew would be to report twice.
func (r *reporter) readLedger(now time.Time) (l ledger, err error) {
	today := ledger{Day: now.UTC().Format(time.DateOnly)}
	d, err := folder.Make(r.folder)
	if err != nil {
		return l, fmt.Errorf("read what was reported: %w", err)
	}
	defer d.Close()
	data, err := d.ReadFile(ledgerName, maxLedger)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return today, nil
	case err != nil:
		return l, fmt.Errorf("read what was reported: %w", err)
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("read what was reported: %s: %w: move it away", filepath.Join(r.folder, ledgerName), err)
	}
	switch {
	case l.Day < today.Day:
		return today, nil
	case l.Day > now.UTC().AddDate(0, 0, 1).Format(time.DateOnly): // a day, as the clock may have been set over midnight
		return l, fmt.Errorf("read what was reported: %s is of a later day, %.10q: if the clock is right, move it away",
			filepath.Join(r.folder, ledgerName), l.Day)
	}
	return l, nil
}

func (r *reporter) writeLedger(l ledger) error {
	d, err := folder.Make(r.folder)
	if err == nil {
		defer d.Close()
		var data []byte
		if data, err = json.Marshal(l); err == nil {
			err = d.WriteFile(ledgerName, data)
		}
	}
	if err != nil {
		err = fmt.Errorf("note that %s is reported: %w", l.Sources[len(l.Sources)-1], err)
	}
	return err
}
