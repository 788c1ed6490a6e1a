package fail2ban

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
)

// The jails that fail2ban brings use the action as they use its own, with the parameters that they give all of them.
func TestJailsOfTheDistribution(t *testing.T) {
	t.Parallel()
	client := lab.Program(t, "fail2ban-client")
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("/etc/fail2ban")); err != nil {
		t.Fatalf("copy fail2ban's configuration, which its package brings: %v", err)
	}
	action, err := os.ReadFile("portmon.conf")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"action.d/portmon.conf": string(action),
		"jail.local":            "[DEFAULT]\nbanaction = portmon\nbanaction_allports = portmon\n[pam-generic]\nenabled = yes\nlogpath = /dev/null\nbanaction = portmon[mode=bantime]\n[sshd]\nenabled = yes\nlogpath = /dev/null\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(client, "-c", dir, "-d").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for jail, mode := range map[string]string{"sshd": "ladder", "pam-generic": "bantime"} {
		for _, want := range []string{"['set', '" + jail + "', 'addaction', 'portmon']", "['name', '" + jail + "']", "[ " + mode + " = ladder ]"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %s in %s", want, out)
			}
		}
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "ERROR") || strings.Contains(line, "iptables") {
			t.Error(line)
		}
	}
}
