package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// header names what the numbers depend on.
func header() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	nft, err := exec.Command("nft", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("nft --version: %w", err)
	}
	version, _, _ := strings.Cut(string(nft), " (")
	cpu, err := processor()
	if err != nil {
		return "", err
	}
	least, err := measureHere(pipeline("true"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Linux %s, %s, %d CPUs; %s; %s. Medians; A : B is the median of the ratios of A to B. Peak memory is told from %.1f MB on.\n\n",
		unix.ByteSliceToString(u.Release[:]), cpu, runtime.NumCPU(), runtime.Version(), strings.TrimSpace(version), least.megabytes()), nil
}

func processor() (string, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(info) {
		if key, value, ok := strings.Cut(string(line), ":"); ok && strings.HasPrefix(key, "model name") {
			return strings.TrimSpace(value), nil
		}
	}
	return runtime.GOARCH, nil
}
