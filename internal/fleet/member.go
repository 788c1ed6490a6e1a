// Package fleet is a host's part in a fleet: it tells the hub what offended here,
// and hands on what the hub says is to be banned. It knows nothing of nftables;
// who runs a [Client] gives it a [Table].
//
// The hub is not trusted with the host: a [Client] refuses bans of whatever the
// host needs, see [protected], and no ban is longer than it allows. Without the
// hub nothing changes but the sharing.
package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/folder"
)

// Files in the folder of the state file.
const (
	memberFile = "fleet.json"
	seedFile   = "fleet.nk" // also the name of a systemd credential in its place
	queueFile  = "fleet.queue"

	maxMember = 16 << 10 // bytes of each but the queue
)

// Member is what a host that belongs to a fleet knows of it.
type Member struct {
	URLs []string `json:"urls"`
	Host string   `json:"host"`
	Pin  string   `json:"pin,omitempty"`
	// Off says that the bans of the fleet are not to be in force here.
	Off bool `json:"off,omitempty"`

	seed string // of the host's nkey
}

// IsMember reports whether the host with a state file belongs to a fleet, so that
// its table has sets for one. An error is that this cannot be known.
func IsMember(state string) (bool, error) {
	if state == "" {
		return false, nil
	}
	d, err := folder.Open(filepath.Dir(state))
	if err == nil {
		defer d.Close()
		_, err = d.Stat(memberFile)
	}
	if err := ignoreMissing(err); err != nil {
		return false, fmt.Errorf("find out whether this host belongs to a fleet: %w", err)
	}
	return err == nil, nil
}

// Read returns what is known of the fleet that a host belongs to, but for its key;
// nil if it belongs to none.
func Read(state string) (*Member, error) {
	m, err := folder.ReadBeside[Member](state, memberFile, maxMember)
	if m == nil || err != nil {
		return nil, err
	}
	t := wire.Token{URLs: m.URLs, Host: m.Host, Pin: m.Pin}
	if err := t.CheckFleet(); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(filepath.Dir(state), memberFile), err)
	}
	return m, nil
}

// ReadWithKey is [Read] for who takes part.
func ReadWithKey(state string) (*Member, error) {
	m, err := Read(state)
	if m == nil || err != nil {
		return nil, err
	}
	// The one that joining has put there, or else that of systemd.
	seed, err := folder.ReadSecret(filepath.Dir(state), seedFile, maxMember)
	if m.seed = strings.TrimSpace(string(seed)); err == nil {
		_, _, err = m.keys()
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of this host in its fleet, %s: %w", seedFile, err)
	}
	return m, nil
}

// Write has the host with a state file belong to the fleet, once its key is there.
func (m *Member) Write(state string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return write(state, memberFile, append(data, '\n'))
}

// writeKey writes the key, which means nothing without the other file.
func (m *Member) writeKey(state string) error { return write(state, seedFile, []byte(m.seed+"\n")) }

func write(state, name string, data []byte) error {
	dir := filepath.Dir(state)
	d, err := folder.Make(dir)
	if err == nil {
		defer d.Close()
		err = d.WriteFile(name, data)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// Remove ends that.
func Remove(state string) error {
	d, err := folder.Open(filepath.Dir(state))
	if err != nil {
		return err
	}
	defer d.Close()
	return errors.Join(d.Remove(memberFile), d.Remove(seedFile), d.Remove(queueFile))
}

// keys returns the host's key.
func (m *Member) keys() (pair nkeys.KeyPair, public string, err error) {
	if pair, err = nkeys.FromSeed([]byte(m.seed)); err == nil {
		public, err = pair.PublicKey()
	}
	return pair, public, err
}
