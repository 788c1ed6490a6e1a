package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/addrlist"
)

// maxWhitelistSize bounds a whitelist file, in bytes: millions of addresses,
// but not a device that never ends.
const maxWhitelistSize = 64 << 20

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
			return nil, nameError(s, err)
		}
		if note := doubt(s, prefixes); note != "" {
			r.warn(item, "%s", note)
		}
		return prefixes, nil
	})
	if whitelist.value != nil {
		r.config.Spec.Whitelist = slices.Concat(all...)
	}
	var files []string
	list(r, r.get("whitelist_files"), new([]string), "file names", func(item setting) (string, error) {
		name, _ := item.value.(string)
		if name == "" {
			return "", errors.New("want the name of a file")
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(r.file), name)
		}
		if slices.Contains(files, name) {
			r.warn(item, "is listed twice, and read once")
			return name, nil
		}
		files = append(files, name)
		// To go on without the file could ban those who rely on it.
		if err := r.readWhitelistFile(name); err != nil {
			return "", fmt.Errorf("%s: %w", name, withoutPath(err))
		}
		return name, nil
	})
}

// readWhitelistFile adds the entries of a whitelist file. The file is read
// twice, so that memory for its entries is allocated once. The error is that of
// reading it.
func (r *reader) readWhitelistFile(name string) error {
	var n int
	var faults, warnings Errors
	add := func(to *Errors, e addrlist.Entry, err error) {
		if len(*to) <= maxWhitelistReports { // one more, for limit to see that there are more
			*to = append(*to, &Error{File: name, Line: e.Line, Column: e.Column, Value: quote(e.Text), Err: err})
		}
	}
	err := r.eachEntry(name, func(e addrlist.Entry) error {
		n += len(e.Prefixes)
		if e.Err != nil {
			add(&faults, e, nameError(e.Text, e.Err))
		} else if note := doubt(e.Text, e.Prefixes); note != "" {
			add(&warnings, e, errors.New(note))
		}
		return nil
	})
	r.fileFaults = append(r.fileFaults, limit(faults, maxWhitelistReports)...)
	r.fileWarnings = append(r.fileWarnings, limit(warnings, maxWhitelistReports)...)
	if err != nil || len(faults) > 0 {
		return err
	}
	whitelist := slices.Grow(r.config.Spec.Whitelist, n)
	err = r.eachEntry(name, func(e addrlist.Entry) error {
		whitelist = append(whitelist, e.Prefixes...)
		return e.Err // of a file that has changed since
	})
	r.config.Spec.Whitelist = whitelist
	return err
}

// eachEntry calls do for each entry of a whitelist file, up to an error.
func (r *reader) eachEntry(name string, do func(addrlist.Entry) error) error {
	f, err := r.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for e, err := range addrlist.Read(f, maxWhitelistSize) {
		if err == nil {
			err = do(e)
		}
		if err != nil {
			return err
		}
		if e.Line%(1<<20) == 0 {
			// Left alone, the collector lets the lines that have been read take
			// as much memory as a large whitelist itself.
			runtime.GC()
		}
	}
	return nil
}

// hostName matches what could be the name of a host.
var hostName = regexp.MustCompile(`^[\w.-]*[A-Za-z][\w.-]*$`)

// nameError returns err, or explains why an entry cannot be a host name.
func nameError(s string, err error) error {
	if errors.Is(err, addrlist.ErrSyntax) && hostName.MatchString(s) {
		return errors.New("names are not resolved: there is no DNS when the table is loaded at boot, " +
			"and the owner of a name could whitelist any address; want an address, a prefix or a range")
	}
	return err
}

// doubt returns what the author of an entry may not have meant, or "".
func doubt(s string, prefixes []netip.Prefix) string {
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
