package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

// fleetCommand is a portmon that belongs to a fleet once it was told to join
// one, and notes with which token.
const fleetCommand = `#!/bin/sh
set -eu
case "$*" in
"fleet status") test -e "$JOINED" || exit 3 ;;
"fleet join -") cat >"$JOINED" ;;
*) exit 1 ;;
esac
`

// TestRoleJoinsOnce has the Ansible role join a fleet: a second run changes
// nothing, and neither shows the token.
func TestRoleJoinsOnce(t *testing.T) {
	t.Parallel()
	const token = "portmon-fleet-1_secret"
	playbook := lab.Program(t, "ansible-playbook")
	dir := t.TempDir()
	tasks, err := filepath.Abs("ansible/tasks/fleet.yml")
	if _, statErr := os.Stat(tasks); err != nil || statErr != nil { // go test runs again when it has changed
		t.Fatal(err, statErr)
	}
	play := "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - ansible.builtin.include_tasks: " + tasks + "\n"
	for name, text := range map[string]string{"portmon": fleetCommand, "play.yml": play} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	joined := filepath.Join(dir, "joined")
	for _, want := range []string{"changed=1 ", "changed=0 "} {
		cmd := exec.Command(playbook, "-vvv", "-i", "localhost,", "-c", "local", "-e", "portmon_fleet_token="+token, "play.yml")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "JOINED="+joined, "ANSIBLE_LOCAL_TEMP="+dir, "ANSIBLE_REMOTE_TEMP="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || strings.Contains(string(out), token) {
			t.Fatalf("want %s and no token: %v\n%s", want, err, out)
		}
		if got, err := os.ReadFile(joined); err != nil || strings.TrimSpace(string(got)) != token {
			t.Fatalf("joined with %q: %v", got, err)
		}
	}
}
