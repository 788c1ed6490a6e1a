package config

import (
	"errors"
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
	wantCommand = `strings, the program and its arguments,`
	wantProgram = `the absolute path of a program first: there is no shell and no PATH`
)

func (r *reader) readWatch() {
	w := &r.config.Watch
	if s := r.get("watch.state"); r.text(s, &w.State, wantState) && !isFilePath(w.State) {
		r.fault(s, "want %s", wantState)
	}
	if s := r.get("watch.metrics"); r.text(s, &w.Metrics, wantMetrics) && w.Metrics != "" {
		r.checkMetrics(s, w.Metrics)
	}
	ntfy := r.get("watch.ntfy")
	if r.text(ntfy, &w.Ntfy, wantNtfy) && w.Ntfy != "" {
		r.checkNtfy(ntfy, w.Ntfy)
	}
	if s := r.get("watch.ntfy_token_file"); r.text(s, &w.NtfyTokenFile, wantToken) && w.NtfyTokenFile != "" {
		switch {
		case !isFilePath(w.NtfyTokenFile):
			r.fault(s, "want %s", wantToken)
		case w.Ntfy == "":
			r.warn(s, "not used, as ntfy is off")
		case strings.HasPrefix(strings.ToLower(w.Ntfy), "http:"):
			r.warn(ntfy, "the access token is sent unencrypted: want https")
		}
	}
	first := true
	list(r, r.get("watch.command"), &w.Command, wantCommand, func(item setting) (string, error) {
		arg, ok := item.value.(string)
		isProgram := first
		first = false
		switch {
		case isProgram && !isFilePath(arg):
			return "", errors.New("want " + wantProgram)
		case !ok || strings.Contains(arg, "\x00"):
			return "", errors.New("want a string without NUL")
		}
		return arg, nil
	})
}

// isFilePath reports whether s is an absolute path that can be that of a file.
func isFilePath(s string) bool {
	return filepath.IsAbs(s) && !strings.HasSuffix(s, "/") && !strings.Contains(s, "\x00")
}

// checkMetrics wants a literal address: there may be no DNS when the watcher
// starts.
func (r *reader) checkMetrics(s setting, address string) {
	host, port, err := net.SplitHostPort(address)
	_, isPort := parsePort(port)
	addr, addrErr := netip.ParseAddr(host)
	switch {
	case err != nil || !isPort || addrErr != nil && host != "" && host != "localhost":
		r.fault(s, "want %s", wantMetrics)
	case host != "localhost" && !addr.IsLoopback():
		r.warn(s, "not a loopback address: anybody who can reach it can read the metrics")
	}
}

func (r *reader) checkNtfy(s setting, topic string) {
	if i := strings.LastIndexByte(topic, '@'); i >= 0 {
		// What comes before it may be a password, which belongs in no message.
		s.value = "…" + topic[i:]
	}
	u, err := url.Parse(topic)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "":
		r.fault(s, "want %s", wantNtfy)
	case u.User != nil:
		r.fault(s, "credentials do not belong in the URL: want an access token in a file, ntfy_token_file")
	case strings.Trim(u.Path, "/") == "" || strings.HasSuffix(u.Path, "/"):
		r.fault(s, "no topic: want %s", wantNtfy)
	}
}
