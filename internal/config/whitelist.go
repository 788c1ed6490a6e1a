package config

import (
	"path/filepath"
	"slices"
	"strings"
)

// maxWhitelistSize bounds a whitelist file, in bytes: millions of addresses,
// but not a device that never ends.
const maxWhitelistSize = 64 << 20

// readWhitelists takes the whitelist and then adds the whitelist files, so that
// a host with files has the default whitelist until it says otherwise.
func (r *reader) readWhitelists(file raw) {
	if items, ok := r.list(file.Whitelist, "addresses and prefixes"); ok {
		r.config.Spec.Whitelist = nil
		for _, item := range items {
			if s, ok := r.text(item, "an address, a prefix or a range in quotes"); ok {
				r.addEntry(item.at, s)
			}
		}
	}
	if items, ok := r.list(file.WhitelistFiles, "file names"); ok {
		for _, item := range items {
			if name, ok := r.text(item, "the name of a file"); ok {
				r.addFile(item.place(), name)
			}
		}
	}
}

// addEntry adds what an entry of a whitelist stands for. The place comes
// without the value.
func (r *reader) addEntry(at Place, s string) {
	prefixes, notes, err := appendEntry(r.config.Spec.Whitelist, s)
	r.config.Spec.Whitelist = prefixes
	if err == nil && notes == nil {
		return
	}
	at.Value = quote(s)
	if err != nil {
		r.fault(at, "%w", err)
	}
	for _, note := range notes {
		r.warn(at, "%s", note)
	}
}

// addFile adds the entries of a whitelist file. That it cannot be read is a
// fault of the place where it is listed: to go on without it could ban those
// who rely on it.
func (r *reader) addFile(at Place, name string) {
	if name == "" {
		r.fault(at, "want the name of a file")
		return
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(r.files[0]), name)
	}
	if slices.Contains(r.files[1:], name) {
		r.warn(at, "is listed twice, and read once")
		return
	}
	data, err := readFile(name, maxWhitelistSize, r.open)
	if err != nil {
		r.fault(at, "%w", err)
		return
	}
	r.files = append(r.files, name)
	number := 0
	for line := range strings.Lines(string(withoutBOM(data))) {
		number++
		line, _, _ = strings.Cut(line, "#")
		entry := strings.TrimSpace(line)
		if entry == "" {
			continue
		}
		at := Place{File: name, Line: number, Column: strings.Index(line, entry) + 1}
		if strings.ContainsAny(entry, " \t,;") {
			at.Value = quote(entry)
			r.fault(at, "want one entry per line")
			continue
		}
		r.addEntry(at, entry)
	}
}
