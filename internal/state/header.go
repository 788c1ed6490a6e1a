package state

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/ledger"
)

// Version is that of the file's format. A change that an older portmon would misread raises it; a new key does not.
const Version = 1

const format = "portmon-state"

// headerStart is how the first line begins.
const headerStart = `{"format":"` + format + `"`

// Header is the first line of a file.
type Header struct {
	// Saved is when the state was that of the kernel, by both clocks.
	Saved ledger.Now
	Origin
}

// Origin tells which table a state is about. What is not known is zero, and equals nothing.
type Origin struct {
	// Machine stands for the host's machine id, which cannot be told from it.
	Machine string
	// Boot is the kernel's random id of this boot. While it is the same, so is the monotonic clock.
	Boot string
	// NetNS is the kernel's number for the network namespace, unique within a boot.
	NetNS uint64
	// Table is the kernel's handle of the table, 0 if there was none. Each network namespace counts its tables from 1, so that it
	// does not tell a container's table from that of the container before it.
	Table uint64
}

// SameBoot reports whether both are from the same boot of the same host.
func (o Origin) SameBoot(p Origin) bool { return o.Boot != "" && o.Boot == p.Boot }

// SameNetNS reports whether both are about the same network namespace.
func (o Origin) SameNetNS(p Origin) bool { return o.SameBoot(p) && o.NetNS != 0 && o.NetNS == p.NetNS }

// SameTable reports whether both are about the same incarnation of the table: bans that it no longer has were lifted or have expired.
func (o Origin) SameTable(p Origin) bool {
	return o.SameNetNS(p) && o.Table != 0 && o.Table == p.Table
}

// otherMachine reports whether the two are known to be from different hosts.
func (o Origin) otherMachine(p Origin) bool {
	return o.Machine != "" && p.Machine != "" && o.Machine != p.Machine
}

func (h *Header) append(b []byte) []byte {
	b = strconv.AppendInt(append(b, headerStart+`,"version":`...), Version, 10)
	b = appendTime(append(b, `,"saved":`...), h.Saved.Wall)
	b = AppendSeconds(append(b, `,"uptime_seconds":`...), time.Duration(h.Saved.Mono))
	if h.Machine != "" {
		b = appendString(append(b, `,"machine":`...), h.Machine)
	}
	if h.Boot != "" {
		b = appendString(append(b, `,"boot_id":`...), h.Boot)
	}
	if h.NetNS != 0 {
		b = strconv.AppendUint(append(b, `,"netns":`...), h.NetNS, 10)
	}
	if h.Table != 0 {
		b = strconv.AppendUint(append(b, `,"table_handle":`...), h.Table, 10)
	}
	return append(b, "}\n"...)
}

// maxID is more than an id of a host or a boot has, in bytes.
const maxID = 64

var errNoHeader = errors.New("no header")

// parse reads a header. The error is errNoHeader, or a *VersionError if the line is the header of another version.
func (h *Header) parse(line []byte) error {
	// First only what tells the version, because the next one may have other types for the rest.
	var kind struct {
		Format  string
		Version int
	}
	if json.Unmarshal(line, &kind) != nil || kind.Format != format || kind.Version < 1 {
		return errNoHeader
	}
	if kind.Version != Version {
		return &VersionError{kind.Version}
	}
	var raw struct {
		Saved   time.Time
		Uptime  seconds `json:"uptime_seconds"`
		Machine string
		Boot    string `json:"boot_id"`
		NetNS   uint64
		Table   uint64 `json:"table_handle"`
	}
	if json.Unmarshal(line, &raw) != nil || !isDate(raw.Saved) || len(raw.Machine) > maxID || len(raw.Boot) > maxID {
		return errNoHeader
	}
	*h = Header{
		Saved:  ledger.Now{Wall: raw.Saved, Mono: ledger.Instant(raw.Uptime)},
		Origin: Origin{raw.Machine, raw.Boot, raw.NetNS, raw.Table},
	}
	return nil
}

// isDate reports whether a time is one that a clock can have shown, and near which others can be written as dates.
func isDate(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 9000 }
