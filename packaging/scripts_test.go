package packaging

import (
	"path/filepath"
	"testing"
)

// The scripts are for any POSIX shell.
func TestShellcheck(t *testing.T) {
	scripts, err := filepath.Glob("scripts/*")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	for _, script := range append(scripts, "build") {
		if out, err := tool(t, "shellcheck", "--shell=sh", script); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		mustTool(t, "sh", "-n", script)
	}
}
