package main

import (
	"cmp"
	"context"
	"crypto/subtle"
	_ "embed"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle []byte

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// How much the page shows: the latest bans, and the first hosts by name.
const (
	maxRows     = 100
	maxHostRows = 500
)

// awayAfter is how long nothing is heard from a host that is away: they say
// hello every 30 s.
const awayAfter = 2 * time.Minute

type page struct {
	Now             string
	Members, Quorum int
	Status          []status
	Bans, Lifted    int
	Rate            string
	Quarantined     []hostRow
	Hosts           []hostRow
	More            int // hosts
	Rows            []banRow
	Message         string
	Failed          bool
}

// status is a line that says how the fleet fares, by its class: good, warn, bad.
type status struct{ Class, Text string }

type hostRow struct {
	Name, Standing, Since, Heard, State, Reason, Said string
	Away                                              bool
}

type banRow struct{ Source, Left, Step, Hosts, Who, Last string }

// pages serves the page, its style, and the metrics.
func (h *hub) pages(token string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h.metrics())
	mux.HandleFunc("GET /page.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(pageStyle) // who asked may be gone
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { h.render(w, http.StatusOK, "") })
	d := &door{token: strings.TrimSpace(token)}
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) { h.act(w, r, d) })
	return guard(mux)
}

// guard lets in only who names this host as it is: a page of another site, whose
// name leads here, must not read ours.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cache-Control", "no-store")
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		a, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && (err != nil || !a.IsLoopback()) {
			http.Error(w, "ask for this page as localhost or 127.0.0.1", http.StatusMisdirectedRequest)
			return
		}
		if err := http.NewCrossOriginProtection().Check(r); err != nil {
			http.Error(w, "this came from another site", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		next.ServeHTTP(w, r)
	})
}

// door asks for the token, once a second at most if it was wrong.
type door struct {
	token string
	mu    sync.Mutex
	next  time.Time
}

func (d *door) open(token string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.token == "" || time.Now().Before(d.next) {
		return false
	}
	if subtle.ConstantTimeCompare([]byte(strings.TrimSpace(token)), []byte(d.token)) == 1 {
		return true
	}
	d.next = time.Now().Add(time.Second)
	return false
}

// act releases or revokes a host.
func (h *hub) act(w http.ResponseWriter, r *http.Request, d *door) {
	name, action := r.PostFormValue("host"), r.PostFormValue("action")
	if !d.open(r.PostFormValue("token")) {
		h.render(w, http.StatusForbidden, "The token is wrong, or was tried too soon after a wrong one. It is in the file page.token of the hub's folder.")
		return
	}
	h.mu.Lock()
	k := h.hosts[name]
	var known record
	if k != nil {
		known = k.record
	}
	h.mu.Unlock()
	do := map[string]func(context.Context, string, record) error{"release": h.fleet.release, "revoke": h.fleet.revoke}[action]
	if k == nil || do == nil {
		h.render(w, http.StatusBadRequest, "There is no such host, or nothing like that to do.")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := do(ctx, name, known); err != nil {
		h.render(w, http.StatusConflict, err.Error())
		return
	}
	h.note("%s of host %s, on the page", action, name)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (h *hub) render(w http.ResponseWriter, status int, message string) {
	p := h.page()
	p.Message, p.Failed = message, status != http.StatusOK
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := pageTemplate.Execute(w, p); err != nil {
		h.note("write the page: %s", err)
	}
}

// page returns what is to be seen now.
func (h *hub) page() *page {
	now := h.fleet.now()
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "not since the hub started"
		}
		return text.ShortDuration(max(0, now.Sub(t))) + " ago"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &page{Now: now.UTC().Format(time.DateTime) + " UTC"}
	p.Bans, p.Lifted = h.countBans()
	said := 0
	for _, n := range h.recent {
		said += n
	}
	p.Rate = fmt.Sprintf("%.1f", float64(said)/float64(len(h.recent)))
	heard := 0 // members, lately
	for name, k := range h.hosts {
		away := now.Sub(k.heard) > awayAfter
		row := hostRow{
			Name: name, Standing: string(k.Standing), Since: k.Since.UTC().Format("2006-01-02 15:04"), Heard: ago(k.heard), Reason: k.Reason,
			Said: fmt.Sprint(k.said), State: hostState(&k.hello, !k.heard.IsZero()),
		}
		switch k.Standing {
		case wire.Member:
			p.Members++
			if row.Away = away; !away {
				heard++
			}
		case wire.Quarantined:
			p.Quarantined = append(p.Quarantined, row)
		}
		p.Hosts = append(p.Hosts, row)
	}
	if !h.fleet.nc.IsConnected() {
		p.Status = append(p.Status, status{"bad", "The connection to the NATS server is lost."})
	}
	if n := len(p.Quarantined); n > 0 {
		p.Status = append(p.Status, status{"bad", "In quarantine: " + text.Plural(n, "host")})
	}
	if p.Members > 0 {
		class := "good"
		if heard < p.Members {
			class = "warn"
		}
		p.Status = append(p.Status, status{class, fmt.Sprintf("Heard in the last %s: %d of %s", text.Duration(awayAfter), heard, text.Plural(p.Members, "member"))})
	}
	p.Quorum = h.config.judge.QuorumOf(p.Members)
	byName := func(a, b hostRow) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(p.Hosts, byName)
	slices.SortFunc(p.Quarantined, byName)
	p.More = max(0, len(p.Hosts)-maxHostRows)
	p.Hosts, p.Quarantined = p.Hosts[:len(p.Hosts)-p.More], p.Quarantined[:min(len(p.Quarantined), maxRows)]
	p.Rows = banRows(h.bans, now, ago)
	return p
}

func hostState(hello *wire.Hello, heard bool) string {
	if !heard {
		return ""
	}
	state := fmt.Sprintf("%s in force", text.Plural(hello.Bans, "ban"))
	switch {
	case hello.Off:
		state = "switched off"
	case hello.Observe:
		state = "observes"
	}
	if hello.Queued > 0 {
		state += fmt.Sprintf(", %d waiting", hello.Queued)
	}
	return state
}

func banRows(all map[netip.Prefix]wire.Ban, now time.Time, ago func(time.Time) string) (rows []banRow) {
	var bans []wire.Ban
	for _, b := range all {
		if b.Left(now) > 0 {
			bans = append(bans, b)
		}
	}
	slices.SortFunc(bans, func(a, b wire.Ban) int {
		return cmp.Or(b.Last.Compare(a.Last), text.ComparePrefixes(a.Source, b.Source))
	})
	for _, b := range bans[:min(len(bans), maxRows)] {
		var who []string
		for _, r := range b.By[:min(len(b.By), 3)] {
			who = append(who, text.Join(" ", r.Host, "("+text.Join(" ", string(r.Cause), text.Port(r.Proto, r.Port))+")"))
		}
		if b.Hosts > len(who) {
			who = append(who, fmt.Sprintf("and %d more", b.Hosts-len(who)))
		}
		rows = append(rows, banRow{
			text.Prefix(b.Source), text.ShortDuration(b.Left(now)), fmt.Sprint(b.Step), fmt.Sprint(b.Hosts), strings.Join(who, ", "), ago(b.Last),
		})
	}
	return rows
}
