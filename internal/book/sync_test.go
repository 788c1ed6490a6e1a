package book

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/ruleset"
)

// Nothing is written if nothing changed: not by an owner that knows all of it
// already, nor at its end.
func TestIdle(t *testing.T) {
	path := written(t, sample...)
	if _, ok := open(t, config(statePath(t), 0)).NextSync(); ok {
		t.Error("an empty book has something to write")
	}
	before := identity(t, path)
	b := open(t, config(path, 0))
	for _, r := range sample {
		r.Until, r.StepUntil = r.Until.Add(300*time.Millisecond), r.StepUntil.Add(-300*time.Millisecond)
		if b.Put(r) {
			t.Errorf("%s changed", r.Source)
		}
		if _, counted := b.Learn(r); counted {
			t.Errorf("%s counted", r.Source)
		}
	}
	b.Free(address(1))
	b.FreeWithin(prefix("10.0.0.0/8"))
	b.Lift(address(1))
	b.SetTable(b.Table())
	b.Sweep(after(100 * day))
	if _, ok := b.NextSync(); ok {
		t.Error("there is something to write")
	}
	mustSync(t, b, after(day))
	if err := b.Compact(after(day)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := amend(config(path, 0), nil, nil); err != nil {
		t.Fatal(err)
	}
	after := identity(t, path)
	before.Atim, after.Atim = unix.Timespec{}, unix.Timespec{}
	if after != before {
		t.Errorf("was %+v, is %+v", before, after)
	}
}

// Changes are written at once after a time of rest, and then once a second.
func TestSchedule(t *testing.T) {
	b := open(t, config(statePath(t), 0))
	put(t, b, hourly(1))
	if at, ok := b.NextSync(); !ok || at > clock.Boot {
		t.Error(at, ok)
	}
	mustSync(t, b, clock)
	if _, ok := b.NextSync(); ok {
		t.Error("there is something to write")
	}
	put(t, b, hourly(2))
	if at, ok := b.NextSync(); !ok || at != in(time.Second) {
		t.Error(at, ok)
	}
	if at, ok := New(0).NextSync(); ok {
		t.Error(at)
	}
}

// A change to a large file appends a line; when more than half of the lines are
// dead, and at an orderly end, it is rewritten.
func TestRewriting(t *testing.T) {
	path := written(t)
	b := open(t, config(path, 0))
	const rows = 3000
	for n := range rows {
		put(t, b, hourly(n))
	}
	mustSync(t, b, clock)
	id, size := identity(t, path).Ino, identity(t, path).Size
	changes := 0
	for ; identity(t, path).Ino == id; changes++ {
		if changes > 2*rows {
			t.Fatal("never rewritten")
		}
		b.Lift(address(changes % rows))
		if changes >= rows {
			b.Put(hourly(changes % rows))
		}
		mustSync(t, b, clock)
		if got := identity(t, path).Size; changes == 0 && got > size+250 {
			t.Errorf("%d bytes for a change", got-size)
		}
	}
	if changes < rows || strings.Count(contents(t, path), "\n") != rows+1 {
		t.Errorf("rewritten after %d changes to %d lines", changes, strings.Count(contents(t, path), "\n"))
	}
	id = identity(t, path).Ino
	b.Free(address(1))
	mustSync(t, b, clock)
	if identity(t, path).Ino != id {
		t.Error("rewritten for one line")
	}
	if err := b.Compact(clock); err != nil {
		t.Fatal(err)
	}
	if identity(t, path).Ino == id || strings.Count(contents(t, path), "\n") != rows {
		t.Error("not rewritten at the end")
	}
	b.Clear()
	mustSync(t, b, clock)
	mustRead(t, config(path, 0))
}

// Amend changes what is on record, and costs a line; when that has made the file
// large, the next one rewrites it.
func TestAmend(t *testing.T) {
	path := statePath(t)
	c := config(path, 0)
	if err := amend(c, nil, []netip.Prefix{address(1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was made for nothing")
	}
	if err := amend(c, sample, nil); err != nil {
		t.Fatal(err)
	}
	b := open(t, c)
	b.SetTable(5)
	mustSync(t, b, clock)
	b.Close()
	id := identity(t, path)
	hand := Row{Source: sample[0].Source, Banned: true, Timeout: day, Until: in(day), ByHand: true, Comment: "x", Cause: ruleset.CauseHand}
	if err := amend(c, []Row{hand}, []netip.Prefix{sample[1].Source, prefix("::ffff:198.51.100.9/128"), {}}); err != nil {
		t.Fatal(err)
	}
	if now := identity(t, path); now.Ino != id.Ino || now.Size > id.Size+1000 {
		t.Errorf("was %+v, is %+v", id, now)
	}
	merged := sample[0]
	merged.Timeout, merged.Until, merged.ByHand, merged.Comment, merged.Cause = hand.Timeout, hand.Until, true, "x", ruleset.CauseHand
	report := mustRead(t, c, append([]Row{merged}, sample[3:]...)...)
	if report.Saved.Table != 5 {
		t.Errorf("table %d", report.Saved.Table)
	}
	for n := 0; identity(t, path).Ino == id.Ino; n++ {
		err := errors.Join(amend(c, []Row{hourly(1)}, nil), amend(c, nil, []netip.Prefix{address(1)}))
		if err != nil || n > 1000 {
			t.Fatalf("%d times: %v", n, err)
		}
	}
	if n := strings.Count(contents(t, path), "\n"); n > 10 {
		t.Errorf("%d lines after it was rewritten", n)
	}
	mustRead(t, c, append([]Row{merged}, sample[3:]...)...)
}

// What is amended depends on something that fails: the file stays as it was, be
// it a line or all of it that was to be written.
func TestAmendInVain(t *testing.T) {
	path := written(t, sample...)
	before, failed := contents(t, path), errors.New("failed")
	for _, boot := range []string{"b", "next"} {
		c := config(path, 0)
		c.Here.Boot = boot
		calls := 0
		commit := func() error { calls++; return failed }
		_, err := Amend(c, []netip.Prefix{address(1)}, func(b *Book) { put(t, b, hourly(1)) }, commit)
		if !errors.Is(err, failed) || calls != 1 || contents(t, path) != before {
			t.Errorf("error: %v, after %d calls", err, calls)
		}
		if got := listing(t, filepath.Dir(path)); got != "state.jsonl state.jsonl.lock" {
			t.Error(got)
		}
	}
}

// TestAmendReplaced has the file replaced by a process that did not wait for the
// lock, while the commit takes its time. What that one wrote stays.
func TestAmendReplaced(t *testing.T) {
	path := written(t, sample...)
	for _, boot := range []string{"b", "next"} { // appended, and rewritten
		c := config(path, 0)
		c.Here.Boot = boot
		other := []byte(contents(t, path))
		commit := func() error {
			return errors.Join(os.WriteFile(path+".other", other, 0o600), os.Rename(path+".other", path))
		}
		_, err := Amend(c, []netip.Prefix{address(1)}, func(b *Book) { put(t, b, hourly(1)) }, commit)
		if !errors.Is(err, ErrReplaced) || contents(t, path) != string(other) {
			t.Errorf("boot %s: error %v, and the file has changed: %v", boot, err, contents(t, path) != string(other))
		}
		if got := listing(t, filepath.Dir(path)); got != "state.jsonl state.jsonl.lock" {
			t.Error(got)
		}
	}
}

func TestLookup(t *testing.T) {
	path := written(t, sample...)
	if err := amend(config(path, 0), sample[:1], nil); err != nil {
		t.Fatal(err)
	}
	b, report, err := Read(config(path, 0), sample[0].Source, sample[3].Source, prefix("::ffff:198.51.100.9/128"), address(1))
	if err != nil || report.BadLines > 0 {
		t.Fatal(report, err)
	}
	checkRows(t, b, sample[0], sample[2], sample[3])
	if b, _, err = Read(config(path, 0), sample[0].Source); err != nil || b.Len() != 1 {
		t.Errorf("%d rows, %v", b.Len(), err)
	}
}

// The loop goes on while the disk is waited for.
func TestFlush(t *testing.T) {
	path := written(t)
	b := open(t, config(path, 0))
	done := make(chan error, 1)
	done <- nil
	for n := range 2000 {
		put(t, b, hourly(n))
		if n%100 == 50 {
			b.Clear()
		}
		select {
		case err := <-done:
			wait, flushErr := b.Flush(clock)
			if err := errors.Join(err, flushErr); err != nil {
				t.Fatal(err)
			}
			go func() { done <- wait() }()
		default:
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	mustSync(t, b, clock)
	var want []Row
	for n := 1951; n < 2000; n++ {
		want = append(want, hourly(n))
	}
	mustRead(t, config(path, 0), want...)
}

// Somebody removes the file or its folder, moves it away, or puts another one
// there. With the next change everything is there again, and locked.
func TestVanished(t *testing.T) {
	for name, vanish := range map[string]func(path string) error{
		"file":         os.Remove,
		"folder":       func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"folder moved": func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+"-away") },
		"folder swapped": func(path string) error {
			return errors.Join(os.Rename(filepath.Dir(path), filepath.Dir(path)+"-away"), os.Mkdir(filepath.Dir(path), 0o700))
		},
		"emptied": func(path string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(path)), os.Mkdir(filepath.Dir(path), 0o700))
		},
		"edited": func(path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.Remove(path), os.WriteFile(path, data, 0o600))
		},
	} {
		path := filepath.Join(t.TempDir(), "st", "state.jsonl")
		b := open(t, config(path, 0))
		put(t, b, sample...)
		mustSync(t, b, clock)
		if err := vanish(path); err != nil {
			t.Fatal(err)
		}
		mustSync(t, b, clock) // nothing to write
		put(t, b, hourly(1))
		mustSync(t, b, clock)
		mustRead(t, config(path, 0), append(sample, hourly(1))...)
		if _, _, err := Open(config(path, 0)); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: %v", name, err)
		}
		put(t, b, hourly(2))
		mustSync(t, b, clock)
		if report := mustRead(t, config(path, 0), append(sample, hourly(1), hourly(2))...); report.BadLines > 0 {
			t.Errorf("%s: %s", name, report)
		}
		if name != "edited" {
			if err := errors.Join(b.Compact(clock), os.RemoveAll(filepath.Dir(path)+"-away"), vanish(path)); err != nil {
				t.Fatal(err)
			}
			if err := b.Compact(clock); err != nil {
				t.Fatal(err)
			}
			mustRead(t, config(path, 0), append(sample, hourly(1), hourly(2))...)
		}
		b.Close()
	}
	// Another program's file is not replaced.
	path := written(t, sample...)
	b := open(t, config(path, 0))
	os.Remove(path)
	overwrite(t, path, "precious\n")
	put(t, b, hourly(1))
	for range 3 {
		if err := b.Sync(clock); err == nil || contents(t, path) != "precious\n" {
			t.Errorf("error: %v", err)
		}
	}
}

// The disk is full: what is there stays, and is added to when there is room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=160k"); err != nil {
		t.Fatal("mount a file system: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "state.jsonl")
	b := open(t, config(path, 0))
	put(t, b, sample...)
	mustSync(t, b, clock)
	overwrite(t, filepath.Join(dir, "ballast"), strings.Repeat("x", 120<<10))
	for n := range 200 {
		b.Put(hourly(n))
	}
	for range 3 {
		err := b.Sync(clock)
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("error: %v", err)
		}
		if at, ok := b.NextSync(); !ok || at != in(10*time.Second) {
			t.Error(at, ok)
		}
	}
	if after, report, err := Read(config(path, 0)); err != nil || report.BadLines > 0 || after.Len() < len(sample) {
		t.Errorf("%+v, %v", report, err)
	}
	if got := listing(t, dir); got != "ballast state.jsonl state.jsonl.lock" {
		t.Error(got)
	}
	os.Remove(filepath.Join(dir, "ballast"))
	mustSync(t, b, clock)
	if after, report, err := Read(config(path, 0)); err != nil || report.BadLines > 0 || after.Len() != len(sample)+200 {
		t.Errorf("%+v, %v", report, err)
	}
	b.Close()
	// Nor does a command that finds no room leave half a line.
	overwrite(t, filepath.Join(dir, "ballast"), strings.Repeat("x", 90<<10))
	var many []Row
	for n := range 200 {
		many = append(many, hourly(1000+n))
	}
	if err := amend(config(path, 0), many, nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error: %v", err)
	}
	if after, report, err := Read(config(path, 0)); err != nil || report.BadLines > 0 || report.Torn || after.Len() != len(sample)+200 {
		t.Errorf("%+v, %v", report, err)
	}
	os.Remove(filepath.Join(dir, "ballast"))
	if err := amend(config(path, 0), many, nil); err != nil {
		t.Error(err)
	}
	// To keep a damaged file takes no room: there is none for a copy.
	damaged := contents(t, written(t, sample...)) + strings.Repeat("x", 100<<10) + "\n"
	overwrite(t, path, damaged)
	report, err := Amend(config(path, 0), []netip.Prefix{address(9000)}, func(b *Book) { put(t, b, hourly(9000)) }, nil)
	if err != nil || report.BadLines != 1 || contents(t, path+".bad") != damaged {
		t.Errorf("%+v, error %v; the old one is not kept", report, err)
	}
	if after, report, err := Read(config(path, 0)); err != nil || report.BadLines > 0 || after.Len() != len(sample)+1 {
		t.Errorf("%+v, %v", report, err)
	}
}
