package geo

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/oschwald/maxminddb-golang/v2"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
)

const (
	maxSize = 1 << 30 // bytes of a database; the largest known ones have 200 MB
	maxName = 64      // characters of the name of a network
	probes  = 512     // addresses that are looked up to check a database
)

// database is an open database.
type database struct {
	mapped []byte
	*maxminddb.Reader
}

// newDatabase maps a file and checks samples of it. To verify all of a large
// one would take seconds.
func newDatabase(fd int, st *unix.Stat_t) (*database, error) {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("not a regular file")
	case st.Size == 0:
		return nil, errors.New("empty")
	case st.Size > maxSize:
		return nil, fmt.Errorf("larger than %s", text.Size(maxSize))
	}
	mapped, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	d := &database{mapped: mapped}
	if err := d.check(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *database) close() {
	if d != nil {
		unix.Munmap(d.mapped)
	}
}

// check opens the database. It returns an error if it is damaged, or has
// neither countries nor networks.
func (d *database) check() (err error) {
	defer orFault(&err)()
	if d.Reader, err = maxminddb.OpenBytes(d.mapped, maxminddb.DisableStringCache()); err != nil {
		return err
	}
	records, places := 0, 0
	for i := range probes {
		a := netip.AddrFrom4([4]byte{byte(i >> 1), byte(i << 7), 1, 1})
		if i%2 == 1 && d.Metadata.IPVersion == 6 {
			a = netip.AddrFrom16([16]byte{0x20 | byte(i>>8), byte(i), byte(i >> 4)})
		}
		place, err := d.find(netip.PrefixFrom(a, a.BitLen()))
		if err != nil {
			return err
		}
		if d.Lookup(a).Found() {
			records++
		}
		if place != (Place{}) {
			places++
		}
	}
	if records > 0 && places == 0 {
		return fmt.Errorf("a database of the kind %s, which has neither countries nor networks",
			strconv.Quote(text.Shorten(d.Metadata.DatabaseType, maxName)))
	}
	return nil
}

// find looks up a prefix. The error says that the database is damaged.
func (d *database) find(p netip.Prefix) (place Place, err error) {
	defer orFault(&err)()
	if p.Addr().Is6() && d.Metadata.IPVersion == 4 {
		return place, nil
	}
	r := d.Lookup(p.Addr())
	if err := r.Err(); err != nil || !r.Found() {
		return place, err
	}
	if r.Prefix().Bits() > p.Bits() {
		return place, nil
	}
	f := fields{result: r}
	place = Place{f.country(), f.number(), f.name()}
	return place, f.err
}

// orFault turns a fault in mapped memory into an error. Such faults, which
// would otherwise end the program, occur when a file is truncated, as by a
// program that overwrites it in place.
func orFault(err *error) (end func()) {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		switch r := recover().(type) {
		case nil:
		case runtime.Error:
			*err = fmt.Errorf("damaged, or cut short: %w", r)
		default:
			panic(r)
		}
	}
}
