package ruleset

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// TestConcurrentApplies has four goroutines apply two Specs while nft, another
// process, edits a table of its own.
func TestConcurrentApplies(t *testing.T) {
	t.Parallel()
	const appliers, applies = 4, 25
	l := newTrap(t, trapSpec())
	banned, bystanders := l.everywhere()
	other := trapSpec()
	other.MaxRetry, other.Size, other.BanTime = 3, 1000, other.BanTime[:2]
	other.TrapTCP, other.Whitelist = []Ports{{23, 23}, {4444, 4455}}, nil

	var applying, editing sync.WaitGroup
	stop := make(chan struct{})
	l.NFT(foreign)
	editing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := lab.TryNFT(t, l.Host, fmt.Sprintf("add element ip portmon ban4 { 198.51.%d.%d }", i>>8, i&255)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for n := range appliers {
		applying.Go(func() {
			c, err := nftsetDial(l)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			done := 0
			for i := range applies {
				_, err := Apply(c, [...]Spec{trapSpec(), other}[(n+i)%2])
				switch {
				case err == nil:
					done++
				case !errors.Is(err, nftset.ErrChanged):
					t.Errorf("applier %d: %v", n, err)
				}
			}
			if done == 0 {
				t.Errorf("applier %d did not succeed once in %d times", n, applies)
			}
		})
	}
	applying.Wait()
	close(stop)
	editing.Wait()

	p, q := l.prepare(trapSpec()), l.prepare(other)
	if p.Empty() == q.Empty() {
		t.Errorf("the table is that of neither Spec:\n%s\n%s", p, q)
	}
	l.Cut(banned...)
	l.Served(bystanders...)
	if n := len(l.bans()); n != len(banned) {
		t.Errorf("%d bans, want %d", n, len(banned))
	}
	if theirs := l.theirs(); !strings.Contains(theirs, "198.51.0.0") || !strings.Contains(theirs, "portmon 0123456789abcdef /48") {
		t.Errorf("a foreign table is damaged:\n%s", theirs)
	}
}

// TestApplyAgainstChanges has somebody change the ruleset between each reading
// and its commit, as long as it lasts.
func TestApplyAgainstChanges(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	before := l.list("-t")
	other := trapSpec()
	other.MaxRetry = 3
	plan, err := prepare(l.conn, other)
	if err != nil {
		t.Fatal(err)
	}
	l.NFT("add table ip theirs")
	if err := l.conn.Commit(&plan.rest); !errors.Is(err, nftset.ErrChanged) {
		t.Fatalf("a plan of yesterday: got %v, want ErrChanged", err)
	}
	l.NFT("delete table ip theirs")
	if d := difference(l.list("-t"), before); d != "" {
		t.Errorf("it changed something:\n%s", d)
	}
	l.apply(other)
	if p := l.prepare(other); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}
}

// Whoever applies while somebody else removes gets a table, and no error.
func TestApplyBesideRemove(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other, err := nftset.Dial(&nftset.Config{NetNS: l.Host.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var removing sync.WaitGroup
	stop := make(chan struct{})
	removing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := Remove(other, trapSpec().Table); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 100 {
		if _, err := Apply(l.conn, trapSpec()); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	removing.Wait()
}
