package packaging

import (
	"errors"
	"path/filepath"
	"testing"
)

// The scripts are for any POSIX shell.
func TestShellcheck(t *testing.T) {
	scripts, err := filepath.Glob("scripts/*")
	services, serviceErr := filepath.Glob("openrc/*")
	if err := errors.Join(err, serviceErr); err != nil || len(scripts) == 0 || len(services) == 0 {
		t.Fatal(scripts, services, err)
	}
	for _, script := range append(append(scripts, services...), "build") {
		if out, err := tool(t, "shellcheck", "--shell=sh", script); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		mustTool(t, "sh", "-n", script)
	}
}
