package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/addrlist"
)

const (
	// maxWhitelistSize bounds a whitelist file, in bytes.
	maxWhitelistSize = 64 << 20

	// maxWhitelist bounds the whitelist in all, in prefixes, which take 154 MB:
	// those of 64 MiB of addresses. Few ranges can make as many.
	maxWhitelist = 4_800_000
)

// readWhitelists takes the whitelist and then adds the whitelist files, so that
// a host with files has the default whitelist until it says otherwise.
func (r *reader) readWhitelists() {
	var all [][]netip.Prefix
	whitelist := r.get("whitelist")
	list(r, whitelist, &all, "addresses and prefixes", func(item setting) ([]netip.Prefix, error) {
		s, ok := item.value.(string)
		if !ok {
			return nil, errors.New("want an address, a prefix or a range in quotes")
		}
		prefixes, err := addrlist.Parse(s)
		if err != nil {
			return nil, err
		}
		if note := doubtful(s, prefixes); note != "" {
			r.warn(item, note)
		}
		return prefixes, nil
	})
	if whitelist.value != nil {
		r.config.Spec.Whitelist = slices.Concat(all...)
	}
	var files []string
	list(r, r.get("whitelist_files"), &files, "file names", func(item setting) (string, error) {
		name, _ := item.value.(string)
		if name == "" {
			return "", errors.New("want the name of a file")
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(r.file), name)
		}
		// To go on without the file could ban those who rely on it.
		if err := r.readWhitelistFile(name); err != nil {
			return "", fmt.Errorf("%s: %w", name, withoutPath(err))
		}
		return name, nil
	})
}

// readWhitelistFile adds the entries of a whitelist file. The error is that of
// reading it.
func (r *reader) readWhitelistFile(name string) error {
	f, err := r.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// Room for as many addresses as the file can have: a list that grows exists
	// twice for a moment, and what is not used of this takes no memory. The
	// collector would let the lines that have been read take as much again.
	whitelist := &r.config.Spec.Whitelist
	most := min(int(info.Size())/len("1.1.1.1\n"), maxWhitelist-len(*whitelist))
	*whitelist = slices.Grow(*whitelist, max(most, 0))
	defer debug.SetGCPercent(debug.SetGCPercent(5))

	var faults, warnings Errors
	add := func(to *Errors, e addrlist.Entry, err error) {
		if len(*to) <= maxReports { // one more, for limited to see that there are more
			*to = append(*to, &Error{File: name, Line: e.Line, Column: e.Column, Value: quote(e.Text), Err: err})
		}
	}
	for e, err := range addrlist.Read(f, maxWhitelistSize) {
		if err != nil {
			return err
		}
		if e.Err != nil {
			add(&faults, e, e.Err)
			continue
		}
		if note := doubtful(e.Text, e.Prefixes); note != "" {
			add(&warnings, e, errors.New(note))
		}
		if len(*whitelist)+len(e.Prefixes) > maxWhitelist {
			return fmt.Errorf("line %d: more than %d prefixes in all", e.Line, maxWhitelist)
		}
		*whitelist = append(*whitelist, e.Prefixes...)
	}
	r.fileFaults = append(r.fileFaults, limited(faults)...)
	r.fileWarnings = append(r.fileWarnings, limited(warnings)...)
	return nil
}

// doubtful returns what the author of an entry may not have meant, or "".
func doubtful(s string, prefixes []netip.Prefix) string {
	first := prefixes[0]
	host, _, isPrefix := strings.Cut(s, "/")
	switch {
	case first.Bits() == 0 && first.Addr().Is4():
		return "this is all of IPv4: no source of that family will ever be banned"
	case first.Bits() == 0:
		return "this is all of IPv6: no source of that family will ever be banned"
	case strings.Contains(s, ":") && first.Addr().Is4():
		return fmt.Sprintf("taken as %s: packets carry it as IPv4", strings.TrimSuffix(first.String(), "/32"))
	case !isPrefix:
		return ""
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr != first.Addr() {
		return fmt.Sprintf("taken as %s: the address has bits set beyond the prefix length", first)
	}
	return ""
}
