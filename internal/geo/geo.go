// Package geo tells to which country and network an address belongs, from
// databases of the user in the MaxMind format: GeoLite2 and GeoIP2, DB-IP, IPinfo,
// and others that name their fields as one of these does.
//
// The files are mapped, not read, so that they take none of our memory. One that
// is damaged, or is cut short while it is in use, costs what it knew and nothing
// else.
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
	// ASN is the number of the network (autonomous system), and Network its name,
	// which is safe to print.
	ASN     uint32 `json:"asn,omitempty"`
	Network string `json:"network,omitempty"`
}

// Number returns the number of the network in digits, "" if it is not known.
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

// String returns "DE, AS64500 Example Ltd", without what is not known.
func (p Place) String() string {
	return strings.Trim(p.Country+", "+p.System(), ", ")
}

// DB is some databases, none at first. It can be used from any goroutine, and
// nil knows nothing.
type DB struct {
	changing sync.Mutex   // held by who changes files
	mu       sync.RWMutex // held for reading while files are
	files    []*file
}

// file is a database, or where one should be.
type file struct {
	path string
	*database
	tried stamp // of the file that was opened last, also in vain
	fault string
}

// stamp tells a file from the one that replaces it.
type stamp struct {
	dev, ino    uint64
	size, mtime int64
}

// Open opens databases. The error says what is wrong with which of them; the
// others are used all the same, and [DB.Refresh] tries those again.
func Open(paths ...string) (*DB, error) {
	db := new(DB)
	return db, errors.Join(db.Use(paths...)...)
}

// Close lets go of the files. The DB knows nothing any more.
func (db *DB) Close() {
	if db != nil {
		db.Use()
	}
}

// Use has the DB use these databases, and no others. It returns what Refresh does.
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

// Refresh opens the databases that have been replaced, or have come. While what
// is there is damaged or missing, the one before stays in use. It returns what is
// wrong, each fault once.
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

// open opens the file, unless it is the one that it was. The error is that of
// before if it still is.
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

// Lookup returns what is known of an address. Of databases that know the same,
// the first counts.
func (db *DB) Lookup(a netip.Addr) Place { return db.Of(netip.PrefixFrom(a, a.BitLen())) }

// Of returns what is known of a whole prefix: nothing if a database has more than
// one entry for it.
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
		found, _ := f.find(p) // what is damaged knows nothing
		if place.Country == "" {
			place.Country = found.Country
		}
		if place.System() == "" {
			place.ASN, place.Network = found.ASN, found.Network
		}
	}
	return place
}
