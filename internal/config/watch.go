package config

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
)

const (
	wantState   = `the absolute path of a file, such as "/var/lib/portmon/state.jsonl"`
	wantToken   = `the absolute path of a file, or "" for none`
	wantMetrics = `an address and a port, such as "127.0.0.1:9713", or "" for none`
	wantNtfy    = `an http or https URL with a topic, such as "https://ntfy.sh/my-topic", or "" for none`
	wantProgram = `the absolute path of a program first`
)

func (r *reader) readWatch(watch rawWatch) {
	w := &r.config.Watch
	if s, ok := r.text(watch.State, wantState); ok {
		w.State = s
		if !isFilePath(s) {
			r.fault(watch.State.place(), "want %s", wantState)
		}
	}
	if s, ok := r.text(watch.Metrics, wantMetrics); ok {
		w.Metrics = s
		r.checkMetrics(watch.Metrics)
	}
	if s, ok := r.text(watch.Ntfy, wantNtfy); ok {
		w.Ntfy = s
		r.checkNtfy(watch.Ntfy)
	}
	if s, ok := r.text(watch.NtfyTokenFile, wantToken); ok {
		w.NtfyTokenFile = s
		r.checkToken(watch)
	}
	if items, ok := r.list(watch.Command, "strings, the program and its arguments,"); ok {
		w.Command = r.command(items)
	}
}

// isFilePath reports whether s is an absolute path which can be that of a file.
func isFilePath(s string) bool {
	return filepath.IsAbs(s) && !strings.HasSuffix(s, "/") && !strings.Contains(s, "\x00")
}

// checkMetrics wants a literal address: there may be no DNS when the watcher
// starts.
func (r *reader) checkMetrics(v value) {
	if v.text == "" {
		return
	}
	host, port, err := net.SplitHostPort(v.text)
	if _, ok := parsePort(port); err != nil || !ok {
		r.fault(v.place(), "want %s", wantMetrics)
		return
	}
	if host == "localhost" {
		return
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil && host != "":
		r.fault(v.place(), "want %s", wantMetrics)
	case !addr.IsLoopback():
		r.warn(v.place(), "not a loopback address: whoever can reach it can read the metrics")
	}
}

func (r *reader) checkNtfy(v value) {
	if v.text == "" {
		return
	}
	at := v.place()
	if i := strings.LastIndexByte(v.text, '@'); i >= 0 {
		// What stands before it may be a password, which belongs in no message.
		at.Value = quote("…" + v.text[i:])
	}
	u, err := url.Parse(v.text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "":
		r.fault(at, "want %s", wantNtfy)
	case u.User != nil:
		r.fault(at, "credentials do not belong in the URL: want an access token in a file, ntfy_token_file")
	case strings.Trim(u.Path, "/") == "" || strings.HasSuffix(u.Path, "/"):
		r.fault(at, "no topic: want %s", wantNtfy)
	}
}

// checkToken looks at the token file beside the URL that the token is sent to.
func (r *reader) checkToken(watch rawWatch) {
	v := watch.NtfyTokenFile
	if v.text == "" {
		return
	}
	if !isFilePath(v.text) {
		r.fault(v.place(), "want %s", wantToken)
	}
	switch u, err := url.Parse(watch.Ntfy.text); {
	case watch.Ntfy.text == "":
		r.warn(v.place(), "not used, as ntfy is off")
	case err == nil && u.Scheme == "http":
		r.warn(watch.Ntfy.place(), "the access token is sent unencrypted: want https")
	}
}

// command returns the elements of command: a program, and arguments that may be
// anything.
func (r *reader) command(items []value) []string {
	var argv []string
	for i, item := range items {
		s, ok := r.text(item, "a string")
		switch {
		case ok && i == 0 && !isFilePath(s):
			r.fault(item.place(), "want %s: there is no shell and no PATH", wantProgram)
		case ok && strings.Contains(s, "\x00"):
			r.fault(item.place(), "want no NUL in an argument")
		}
		argv = append(argv, s)
	}
	return argv
}
