package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Commands succeed while another process applies one ladder after the other,
// which makes and deletes sets under their hands.
func TestBesideApply(t *testing.T) {
	t.Parallel()
	s, dir := newSite(t), t.TempDir()
	state := filepath.Join(dir, "state", "state.jsonl")
	ladders := []string{`["10m", "1h"]`, `["10m", "1h", "2h", "4h", "8h", "1d"]`}
	configs := make([]string, len(ladders))
	for i, ladder := range ladders {
		configs[i] = filepath.Join(dir, fmt.Sprint(i, ".toml"))
		text := fmt.Sprintf("[watch]\nstate = %q\n[ban]\nbantime = %s\n", state, ladder)
		if err := os.WriteFile(configs[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(dir, "list")
	if err := os.WriteFile(list, []byte(strings.Join(manyAddresses(200), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(t, configs[0], "apply")
	s.run(t, configs[0], "ban", "--offence", "--file", list)

	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				e, _, errs := hostEnv(s.Host)
				s.Host.Do(func() {
					if code := run(e, []string{"apply", "--config", configs[n%2]}); code != exitDone {
						t.Errorf("portmon apply: exit code %d, %s", code, errs)
					}
				})
			}
		}
	}()
	for n := range 20 {
		s.run(t, configs[0], "save")
		s.run(t, configs[0], "ban", "--for", "1h", "198.51.100.7", "198.51.100.9")
		s.run(t, configs[0], "ban", "--offence", fmt.Sprint("192.0.2.", 100+n))
		s.run(t, configs[0], "unban", "198.51.100.0/24", fmt.Sprint("192.0.2.", 100+n))
	}
	close(stop)
	<-ended
	if n, _ := s.run(t, configs[0], "list", "--count"); n != "200\n" {
		t.Errorf("%s of 200 bans are left", n)
	}
}

func manyAddresses(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("203.0.113.%d", i))
	}
	return all
}
