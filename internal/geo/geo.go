// Package geo tells which country and network an address belongs to, from
// databases of the user in the MaxMind format: GeoLite2 and GeoIP2, DB-IP,
// IPinfo, and others that name their fields like one of these.
//
// The files are mapped, not read, so that they take no memory of the process. A
// file that is damaged, or truncated while it is in use, knows nothing, and
// does no other harm.
package geo

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Place is what is known of an address. What is not known is empty, or 0.
type Place struct {
	// Country is its code, two capital letters.
	Country string `json:"country,omitempty"`
	// ASN is the number of the network (autonomous system). Network is its name,
	// and safe to print.
	ASN     uint32 `json:"asn,omitempty"`
	Network string `json:"network,omitempty"`
}

// Number returns the number of the network in digits, or "" if it is not known.
func (p Place) Number() string {
	return strings.TrimPrefix(strconv.FormatUint(uint64(p.ASN), 10), "0")
}

// System returns the network as people read it: "AS64500 Example Ltd".
func (p Place) System() string {
	if p.ASN == 0 {
		return p.Network
	}
	return strings.TrimSpace("AS" + p.Number() + " " + p.Network)
}

// String returns "DE, AS64500 Example Ltd", as far as that is known.
func (p Place) String() string {
	return strings.Trim(p.Country+", "+p.System(), ", ")
}

// DB is a list of databases, at first empty. It is safe for concurrent use, and
// a nil DB knows nothing.
type DB struct {
	changing sync.Mutex   // held while files are changed
	mu       sync.RWMutex // held for reading during look-ups
	files    []*file
}

// file is a database, or the place of a missing one.
type file struct {
	path string
	*database
	tried stamp // of the file that was last opened, even in vain
	fault string
}

// stamp tells a file from its replacement.
type stamp struct {
	dev, ino    uint64
	size, mtime int64
}

// Open opens databases. The error says which of them are faulty and why; the
// others are in use all the same, and [DB.Refresh] tries again.
func Open(paths ...string) (*DB, error) {
	db := new(DB)
	return db, errors.Join(db.Use(paths...)...)
}

// Close closes the files. Afterwards the DB knows nothing.
func (db *DB) Close() {
	if db != nil {
		db.Use()
	}
}

// Use makes the DB use these databases and no others. It returns the same
// faults as Refresh.
func (db *DB) Use(paths ...string) (faults []error) {
	db.changing.Lock()
	defer db.changing.Unlock()
	var files []*file
	for _, path := range paths {
		f := &file{path: path}
		if i := slices.IndexFunc(db.files, func(f *file) bool { return f.path == path }); i >= 0 {
			f = db.files[i]
		}
		files = append(files, f)
	}
	db.mu.Lock()
	db.files, files = files, db.files
	for _, f := range files {
		if !slices.Contains(db.files, f) {
			f.database.close()
		}
	}
	db.mu.Unlock()
	return db.refresh()
}

// Refresh opens the databases that have been replaced or added. If a file is
// damaged or missing, the one before stays in use. It returns each fault once.
func (db *DB) Refresh() (faults []error) {
	db.changing.Lock()
	defer db.changing.Unlock()
	return db.refresh()
}

func (db *DB) refresh() (faults []error) {
	for _, f := range db.files {
		d, err := f.open()
		switch {
		case err != nil && err.Error() != f.fault:
			f.fault = err.Error()
			faults = append(faults, err)
		case d != nil:
			f.fault = ""
			db.mu.Lock()
			f.database.close()
			f.database = d
			db.mu.Unlock()
		}
	}
	return faults
}

// open opens the file, unless it is the one that was last opened.
func (f *file) open() (d *database, err error) {
	r, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		f.tried = stamp{}
		return nil, fmt.Errorf("open geo database: %w", err)
	}
	defer r.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(r.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat geo database", Path: f.path, Err: err}
	}
	if now := (stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano()}); now != f.tried {
		f.tried = now
		if d, err = newDatabase(int(r.Fd()), &st); err != nil {
			err = fmt.Errorf("read geo database %s: %w", f.path, err)
		}
	}
	return d, err
}

// Lookup returns what is known about an address. The first database that knows
// a country counts for that, and the first that knows a network for that.
func (db *DB) Lookup(a netip.Addr) Place { return db.Of(netip.PrefixFrom(a, a.BitLen())) }

// Of returns what is known about a whole prefix. A database that has several
// entries for it counts as knowing nothing.
func (db *DB) Of(p netip.Prefix) (place Place) {
	if db == nil || !p.IsValid() {
		return place
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, f := range db.files {
		if f.database == nil {
			continue
		}
		found, _ := f.find(p) // a damaged one knows nothing
		if place.Country == "" {
			place.Country = found.Country
		}
		if place.System() == "" {
			place.ASN, place.Network = found.ASN, found.Network
		}
	}
	return place
}
