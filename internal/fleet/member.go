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
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/folder"
)

// Files in the folder of the state file.
const (
	memberFile = "fleet.json"
	seedFile   = "fleet.nk" // also the name of a systemd credential that replaces it
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

// Read returns what is known of the fleet that a host belongs to; nil if it belongs
// to none.
func Read(state string) (*Member, error) {
	m, err := folder.ReadBeside[Member](state, memberFile, maxMember)
	if m == nil || err != nil {
		return nil, err
	}
	dir := filepath.Dir(state)
	if m.seed, err = readSeed(dir); err == nil {
		t := m.token()
		err = t.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, memberFile), err)
	}
	return m, nil
}

// token returns what would have the host join as it is.
func (m *Member) token() wire.Token {
	return wire.Token{URLs: m.URLs, Host: m.Host, Pin: m.Pin, Seed: m.seed}
}

// readSeed reads the key from where systemd has decrypted it, or else from the
// folder.
func readSeed(dir string) (seed string, err error) {
	for _, from := range []string{os.Getenv("CREDENTIALS_DIRECTORY"), dir} {
		if from == "" {
			continue
		}
		var d *folder.Folder
		if d, err = folder.Open(from); err != nil {
			continue
		}
		var data []byte
		data, err = d.ReadFile(seedFile, maxMember)
		if d.Close(); err == nil {
			return strings.TrimSpace(string(data)), nil
		}
	}
	return "", err
}

// Write has the host with a state file belong to the fleet.
func (m *Member) Write(state string) error {
	dir := filepath.Dir(state)
	d, err := folder.Make(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	data, err := json.Marshal(m)
	if err == nil {
		// The key first: without the other file it means nothing.
		err = d.WriteFile(seedFile, []byte(m.seed+"\n"))
	}
	if err == nil {
		err = d.WriteFile(memberFile, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir, memberFile), err)
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
