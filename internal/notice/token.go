package notice

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxToken is the longest token, in bytes; those of ntfy have 32.
const maxToken = 4096

// readToken returns the token in a file. The error names the file, and shows
// nothing of what is in it.
func readToken(path string) (string, error) {
	// Nobody writes into a named pipe, so that to open it must not block.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	token, err := token(f)
	if err != nil {
		return "", fmt.Errorf("read token %s: %w", path, err)
	}
	return token, nil
}

func token(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	switch {
	case len(b) > maxToken:
		return "", fmt.Errorf("longer than %d bytes", maxToken)
	case token == "":
		return "", errors.New("empty")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("want a token and nothing else: there is a space, or what is not ASCII")
	}
	return token, nil
}
