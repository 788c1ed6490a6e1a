// Portmon bans whoever touches a trap port. The kernel does it, in one nftables table; this program puts the table in force and
// tells what it does. Run `portmon help` for the commands.
package main

import "os"

func main() { exit(run(systemEnv(), os.Args[1:])) }
