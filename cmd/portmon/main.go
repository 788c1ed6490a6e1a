// Portmon bans hosts that touch a trap port or scan for open ones. The kernel
// does it, by one nftables table; this program installs the table and reports
// what it does. Run `portmon help` for the commands.
package main

import "os"

func main() { exit(run(systemEnv(), os.Args[1:])) }
