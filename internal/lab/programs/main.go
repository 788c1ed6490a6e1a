// Command programs prints a line for each outside program that is not installed
// here, with what `go test ./...` passes over without it.
package main

import (
	"fmt"

	"github.com/portmon/portmon/internal/lab"
)

func main() {
	for _, p := range lab.Programs {
		if _, err := lab.Find(p.Name); err != nil {
			fmt.Printf("no %s: not tested: %s\n", p.Name, p.Tests)
		}
	}
}
