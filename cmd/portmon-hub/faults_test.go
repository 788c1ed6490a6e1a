package main

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/portmon/portmon/internal/fleet/wire"
)

// stored returns what the stream of bans has.
func (l *lab) stored() jetstream.StreamState {
	l.t.Helper()
	var state jetstream.StreamState
	err := (&cli{ui: newUI(os.Stderr, os.Stderr), dir: l.dir}).withFleet(context.Background(), func(_ *config, f *fleet, _ map[string]record) error {
		stream, err := f.js.Stream(context.Background(), wire.Bans)
		if err == nil {
			state = stream.CachedInfo().State
		}
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return state
}

// TestOutages kills the hub under load and cuts off half of the hosts: all get all
// bans in the end, and each is told once.
func TestOutages(t *testing.T) {
	const hosts = 40
	i := newInternet(t, "quorum = { 1 = 1 }")
	halls := i.newLights(2, hosts)
	bans := 0
	see := func(n, rate int, all ...*lights) {
		for _, l := range all {
			l.send("see %d %d 1 %d", bans, n, rate)
			bans += n
		}
	}
	see(200, 200, halls...)
	for halls[0].held() == 0 {
		time.Sleep(time.Millisecond)
	}
	i.kill()
	see(50, 0, halls...)
	i.host.Do(i.start)
	awaitHeld(bans*hosts, halls...)

	i.reach(halls[1], false)
	see(50, 0, halls[0])
	awaitHeld(bans*hosts/2, halls[0])
	see(50, 0, halls[1])
	if held := halls[1].held(); held != (bans-100)*hosts/2 {
		t.Errorf("those who are cut off hold %d", held)
	}
	i.reach(halls[1], true)
	awaitHeld(bans*hosts, halls...)
	var s jetstream.StreamState
	i.host.Do(func() { s = i.stored() })
	if int(s.Msgs) != bans || int(s.LastSeq) > bans+bans/10 {
		t.Errorf("%d bans are %+v", bans, s)
	}
}

// small has the store of a hub that does not run yet be on a disk of 8 MB, and
// returns where others see it.
func (l *lab) small() (store string) {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Join(l.dir, storeDir), 0o700); err != nil {
		l.t.Fatal(err)
	}
	holder := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=8m,mode=700 disk "$0" && echo mounted && exec cat`, filepath.Join(l.dir, storeDir))
	holder.Stderr = os.Stderr
	in, err := holder.StdinPipe()
	out, outErr := holder.StdoutPipe()
	if err != nil || outErr != nil {
		l.t.Fatal(err, outErr)
	}
	if err := holder.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { in.Close(); _ = holder.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		l.t.Fatal(line, err)
	}
	l.within = []string{"nsenter", "--mount", "--target", fmt.Sprint(holder.Process.Pid), "--"}
	return filepath.Join("/proc", fmt.Sprint(holder.Process.Pid), "root", l.dir, storeDir)
}

// fill leaves no room on a disk, and returns what to call for that to end.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	if err := exec.Command("dd", "if=/dev/zero", "of="+path, "bs=4k").Run(); err == nil {
		t.Fatal("the disk has no end")
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull has the hub's disk be full: the hub says so and ends, and goes on
// when there is room. Hosts keep what it did not store.
func TestDiskFull(t *testing.T) {
	l := prepareLab(t)
	disk := l.small()
	l.start()
	a, b := l.join("a"), l.join("b")
	w := b.watch()
	a.see(source(0))
	w.wait("a ban", func() bool { return w.inForce() == 1 })
	free := fill(t, disk)
	ctx, stop := context.WithCancel(t.Context())
	var acknowledged []netip.Prefix
	told := make(chan struct{})
	go func() {
		defer close(told)
		for i := 1; ctx.Err() == nil; i++ {
			one, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			if _, err := a.js.Publish(one, wire.SightingPrefix+"a", sightingOf(source(i))); err == nil {
				acknowledged = append(acknowledged, source(i))
			}
			cancel()
		}
	}()
	l.waitEnd("no space left on device")
	l.launch() // as systemd does
	l.waitEnd("no space left on device")
	stop()
	<-told
	free()
	l.start()
	w = b.watch()
	t.Logf("%d sightings were stored", len(acknowledged))
	for _, p := range acknowledged {
		w.wait("a ban of what was stored", func() bool { return w.get(p).Step == 1 })
	}
	a.seeSoon(source(1 << 16))
	w.wait("a ban after it", func() bool { return w.get(source(1<<16)).Step == 1 })
	if s := l.stored(); int(s.Msgs) != w.inForce() {
		t.Errorf("%d bans are %+v", w.inForce(), s)
	}
}

// tear damages the files of a stream.
func (l *lab) tear(stream string, tear func([]byte) []byte) {
	l.t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(l.dir, storeDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(path, "/streams/"+stream+"/") || filepath.Ext(path) != ".blk" {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && len(data) > 0 {
			n++
			err = os.WriteFile(path, tear(data), 0o600)
		}
		return err
	})
	if err != nil || n == 0 {
		l.t.Fatal(n, err)
	}
}

// TestTornStore has the files of the hub be torn while it is down.
func TestTornStore(t *testing.T) {
	l := newLab(t)
	a, b := l.join("a"), l.join("b")
	w := b.watch()
	const n = 100
	for i := range n {
		a.see(source(i))
	}
	w.wait("bans", func() bool { return w.inForce() == n })
	for _, stream := range []string{wire.Bans, wire.Sightings} {
		for how, tear := range []func([]byte) []byte{
			func(b []byte) []byte { return b[:len(b)-len(b)/10] },
			func(b []byte) []byte { copy(b[len(b)/2:], strings.Repeat("x", 300)); return b },
			func([]byte) []byte { return nil },
		} {
			l.kill()
			l.tear(stream, tear)
			l.start()
			b.reconnected()
			w = b.watch()
			w.wait(fmt.Sprintf("all bans after tear %d of %s", how, stream), func() bool { return w.inForce() == n })
			if s := l.stored(); int(s.Msgs) != n {
				t.Errorf("tear %d of %s: %d bans are %+v", how, stream, n, s)
			}
		}
	}
	// Of what is lost for good the hub says so, and that the hosts have to join anew.
	l.kill()
	l.tear(wire.Hosts, func([]byte) []byte { return nil })
	l.start()
	l.waitLog("no host is known")
	l.kill()
	if err := os.RemoveAll(filepath.Join(l.dir, storeDir)); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.waitLog("no host is known")
	back := l.join("a")
	w = back.watch()
	back.see(source(n))
	w.wait("a ban by who has joined anew", func() bool { return w.inForce() == 1 })
}
