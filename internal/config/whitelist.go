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

// readWhitelistFile adds the entries of a whitelist file. The error is that of
// reading it: to go on without the file could ban those who rely on it.
func (r *reader) readWhitelistFile(name string) error {
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(r.file), name)
	}
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

	add := func(to *Errors, e addrlist.Entry, err error) {
		if len(*to) > maxReports {
			return // a list in another format has millions
		}
		if e.Text != "" {
			err = fmt.Errorf("%s: %w", quote(e.Text), err)
		}
		to.add(&Error{name, e.Line, e.Column, err})
	}
	for e, err := range addrlist.Read(f, maxWhitelistSize) {
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if e.Err != nil {
			add(&r.faults, e, e.Err)
			continue
		}
		if note := doubtful(e.Text, e.Prefixes); note != "" {
			add(&r.warnings, e, errors.New(note))
		}
		if len(*whitelist)+len(e.Prefixes) > maxWhitelist {
			return fmt.Errorf("%s:%d: more than %d prefixes in all", name, e.Line, maxWhitelist)
		}
		*whitelist = append(*whitelist, e.Prefixes...)
	}
	return nil
}

// doubtful returns what the author of an entry may not have meant, or "".
func doubtful(s string, prefixes []netip.Prefix) string {
	first := prefixes[0]
	host, _, isPrefix := strings.Cut(s, "/")
	switch {
	case first.Bits() == 0:
		return "this is every address of its family"
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
