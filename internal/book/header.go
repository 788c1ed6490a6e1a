package book

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/ruleset"
)

// Version is that of the file's format. A change that an older portmon would
// misread raises it; a new key whose value is neither a list nor an object does
// not.
const Version = 2

const (
	format      = "portmon-state"
	headerStart = `{"format":"` + format + `"`
)

// Header says when the rows around it were written.
type Header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Saved   time.Time `json:"saved"`
	Uptime  float64   `json:"uptime_seconds"`
	Origin            // what the rows are about
	Rows    int       `json:"rows,omitempty"` // that follow, when the file was last rewritten
}

func newHeader(o Origin, now Clock) Header {
	return Header{
		Format: format, Version: Version, Saved: now.Wall.Truncate(time.Millisecond).UTC(),
		Uptime: time.Duration(now.Boot).Truncate(time.Millisecond).Seconds(), Origin: o,
	}
}

func (h *Header) append(b []byte) []byte { return append(append(b, mustJSON(h)...), '\n') }

var errNotHeader = errors.New("its first line is not a header of portmon")

// parse reads a header. The error is errNotHeader, or a *RefusedError if it is
// that of a newer version.
func (h *Header) parse(line []byte) error {
	*h = Header{}
	err := json.Unmarshal(line, h) // of a newer version, what follows that may have other types
	ours := h.Format == format && h.Version >= 1
	switch {
	case ours && h.Version > Version:
		return &RefusedError{
			Reason: "written by a newer portmon", Hint: "update portmon, or move the file away to begin without it",
		}
	case !ours || err != nil || h.Uptime < 0 || h.Uptime > horizon.Seconds():
		return errNotHeader
	case h.Saved.Year() < 1970 || h.Saved.Year() >= 9000: // near which others cannot be written as dates
		return errNotHeader
	}
	return nil
}

// Clock returns what both clocks showed.
func (h *Header) Clock() Clock {
	return Clock{Moment(math.Round(h.Uptime*1000)) * Moment(time.Millisecond), h.Saved}
}

// Origin identifies the table that a book is about. What is not known is zero,
// and equals nothing.
type Origin struct {
	// Machine is a hash of the host's machine id, which it does not reveal.
	Machine string `json:"machine,omitempty"`
	// Boot is the kernel's random id of this boot.
	Boot string `json:"boot_id,omitempty"`
	// NetNS is the kernel's number of the network namespace, unique in a boot.
	NetNS uint64 `json:"netns,omitempty"`
	// Table is the kernel's handle of the table, 0 if there is none.
	Table uint64 `json:"table_handle"`
	// Observe reports that the table drops nothing.
	Observe bool `json:"observe,omitempty"`
}

// Here returns the origin of what this process knows of the table with that
// handle, in the network namespace of the calling thread.
func Here(table uint64) Origin {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return Origin{Machine: machine(), Boot: strings.TrimSpace(string(boot)), NetNS: netNS(), Table: table}
}

// Of is [Here] for a table that was read just now.
func Of(s *ruleset.State) Origin {
	o := Here(s.Handle)
	o.Observe = s.Observe
	return o
}

// SameBoot reports whether both are known to be from one boot of one host.
func (o Origin) SameBoot(p Origin) bool { return o.Boot != "" && o.Boot == p.Boot }

// SameTable reports whether both are known to be about the same incarnation of
// the table: bans that it no longer has were lifted or are over.
func (o Origin) SameTable(p Origin) bool {
	return o.SameBoot(p) && o.NetNS != 0 && o.NetNS == p.NetNS && o.Table != 0 && o.Table == p.Table
}

// check returns an *OriginError if what was saved is known not to be about
// here. Over a reboot network namespaces cannot be told apart.
func (o Origin) check(here Origin) error {
	switch {
	case o.Machine != "" && here.Machine != "" && o.Machine != here.Machine:
		return &OriginError{"machine", o.Machine, here.Machine}
	case o.SameBoot(here) && o.NetNS != 0 && here.NetNS != 0 && o.NetNS != here.NetNS:
		return &OriginError{"network namespace", strconv.FormatUint(o.NetNS, 10), strconv.FormatUint(here.NetNS, 10)}
	}
	return nil
}

// machine returns a hash of the machine id, or "" if there is none. It is keyed,
// as machine-id(5) asks of programs that show the id to others.
func machine() string {
	b, err := os.ReadFile("/etc/machine-id")
	id, hexErr := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || hexErr != nil || len(id) != 16 { // "uninitialized" in an image that was not booted yet
		return ""
	}
	h := hmac.New(sha256.New, id)
	h.Write([]byte("portmon state"))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// netNS returns the cookie of the thread's network namespace; on kernels before
// 5.14, which have none, its inode number.
func netNS() uint64 {
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		defer unix.Close(fd)
		if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
			return cookie
		}
	}
	var st unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &st) != nil {
		return 0
	}
	return st.Ino
}
