package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/pelletier/go-toml/v2"

	"github.com/portmon/portmon/cmd/portmon-hub/judge"
	"github.com/portmon/portmon/internal/addrlist"
	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/text"
)

// The files of a hub's folder. All are of mode 0600.
const (
	configFile = "hub.toml"
	seedFile   = "hub.nk"     // the hub's own nkey
	caFile     = "ca.crt"     // what the hosts' pin is of
	caKeyFile  = "ca.key"     // signs the certificate of this server, and of other hubs
	tokenFile  = "page.token" // for release and revoke on the page
	storeDir   = "store"      // the streams, if the server is in this program
)

const maxFile = 1 << 20

// defaultConfig is what `init` writes; %s is the list of URLs.
const defaultConfig = `# The hub of a fleet. A change counts from the next start on.

# Where hosts reach it; tokens carry this.
urls = %s

# Where the NATS server in this program listens.
listen = ":4222"

# Use the server at this URL instead; see portmon-hub users --help. Its key is
# the pin, unless the authorities of this system vouch for it.
# nats = "tls://nats.example.net:4222"
# pin = "sha256:..."

# How many servers of a NATS cluster have a copy of each stream.
replicas = 1

# The page for people, and /metrics: on loopback only. "" for neither.
page = "127.0.0.1:9421"

# How many hosts have to see a source before all ban it: by the size of the
# fleet from which on that counts.
quorum = { 1 = 1, 4 = 2, 50 = 3 }

# For how long, if so many hosts have seen it, twice as many, four times ...
lengths = ["1h", "8h", "3d"]

# How many sources any host may report in 24 hours. Beyond that, ten times what
# half of the others report, but no more than 5 %% of all that is banned. A host
# that is over it is quarantined.
quota = 1000

# Addresses and prefixes that are never banned, as those of your offices.
never = []
`

// config is what hub.toml says.
type config struct {
	URLs     []string       `toml:"urls"`
	Listen   string         `toml:"listen"`
	NATS     string         `toml:"nats"`
	Pin      string         `toml:"pin"`
	Replicas int            `toml:"replicas"`
	Page     string         `toml:"page"`
	Quorum   map[string]int `toml:"quorum"`
	Lengths  []string       `toml:"lengths"`
	Quota    int            `toml:"quota"`
	Never    []string       `toml:"never"`

	judge judge.Config
	seed  nkeys.KeyPair
	dir   string
}

// configError is a fault of the configuration.
type configError struct{ error }

func (e *configError) Unwrap() error { return e.error }

// load reads the configuration and the hub's key.
func (p *cli) load() (*config, error) {
	d, err := folder.Open(p.dir)
	if err != nil {
		return nil, p.notInitialised(fmt.Errorf("open %s: %w", p.dir, err))
	}
	defer d.Close()
	path := filepath.Join(p.dir, configFile)
	data, err := d.ReadFile(configFile, maxFile)
	if err != nil {
		return nil, p.notInitialised(fmt.Errorf("read %s: %w", path, err))
	}
	c, err := parse(data)
	if err != nil {
		return nil, &configError{fmt.Errorf("%s: %w", path, err)}
	}
	c.NATS = cmp.Or(p.url, c.NATS)
	c.dir = p.dir
	seed, err := d.ReadFile(seedFile, maxFile)
	if err == nil {
		c.seed, err = nkeys.FromSeed(bytes.TrimSpace(seed))
	}
	if err == nil && c.NATS == "" {
		var ca []byte
		if ca, err = d.ReadFile(caFile, maxFile); err == nil {
			c.Pin, err = pinOf(ca)
		}
	}
	if err != nil {
		return nil, p.notInitialised(fmt.Errorf("read the keys in %s: %w", p.dir, err))
	}
	return c, nil
}

func (p *cli) notInitialised(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return hint("portmon-hub init --dir "+strconv.Quote(p.dir)+" --url tls://NAME:4222", "%w", err)
	}
	return err
}

// parse reads a configuration, and says in which line and key a fault is.
func parse(data []byte) (*config, error) {
	standard := judge.Default()
	c := &config{Listen: ":4222", Replicas: 1, Page: "127.0.0.1:9421", Quota: standard.Quota, judge: standard}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c); err != nil {
		var unknown *toml.StrictMissingError
		var wrong *toml.DecodeError
		switch {
		case errors.As(err, &unknown) && len(unknown.Errors) > 0:
			line, _ := unknown.Errors[0].Position()
			return nil, fmt.Errorf("line %d: unknown key %s", line, strings.Join(unknown.Errors[0].Key(), "."))
		case errors.As(err, &wrong):
			line, _ := wrong.Position()
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		return nil, err
	}
	var faults []error
	fault := func(key string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", key, err))
		}
	}
	if len(c.URLs) == 0 || len(c.URLs) > 8 {
		fault("urls", errors.New("want 1 to 8 URLs"))
	}
	for _, u := range c.URLs {
		fault("urls", wire.CheckURL(u))
	}
	_, _, err := net.SplitHostPort(c.Listen)
	fault("listen", err)
	if c.NATS != "" {
		fault("nats", wire.CheckURL(c.NATS))
	}
	if c.Page != "" {
		if a, err := netip.ParseAddrPort(c.Page); err != nil || !a.Addr().IsLoopback() {
			fault("page", errors.New(`want a loopback address and a port, such as "127.0.0.1:9421", or ""`))
		}
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		fault("replicas", errors.New("want 1 to 5"))
	}
	if c.Quota < 1 || c.Quota > 1<<20 {
		fault("quota", errors.New("want 1 to 1048576"))
	}
	c.judge.Quota = c.Quota
	fault("quorum", c.parseQuorum())
	fault("lengths", c.parseLengths())
	for _, s := range c.Never {
		prefixes, err := addrlist.Parse(s)
		if err != nil {
			err = fmt.Errorf("%q: %w", s, err)
		}
		fault("never", err)
		c.judge.Never = append(c.judge.Never, prefixes...)
	}
	return c, errors.Join(faults...)
}

func (c *config) parseQuorum() error {
	if c.Quorum == nil {
		return nil
	}
	c.judge.Quorum = nil
	for size, reporters := range c.Quorum {
		n, err := strconv.Atoi(size)
		if err != nil || n < 0 || reporters < 1 || reporters > max(n, 1) {
			return errors.New("want numbers of reporters by sizes of the fleet, and no more of them than the fleet has, such as { 1 = 1, 4 = 2, 50 = 3 }")
		}
		c.judge.Quorum = append(c.judge.Quorum, judge.Tier{Size: n, Reporters: reporters})
	}
	slices.SortFunc(c.judge.Quorum, func(a, b judge.Tier) int { return cmp.Compare(a.Size, b.Size) })
	return nil
}

func (c *config) parseLengths() error {
	if c.Lengths == nil {
		return nil
	}
	if len(c.Lengths) == 0 || len(c.Lengths) > wire.MaxStep {
		return fmt.Errorf("want 1 to %d durations", wire.MaxStep)
	}
	c.judge.Lengths = nil
	for _, s := range c.Lengths {
		d, err := text.ParseDuration(s, time.Minute, wire.MaxLength)
		if err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		c.judge.Lengths = append(c.judge.Lengths, d)
	}
	return nil
}
