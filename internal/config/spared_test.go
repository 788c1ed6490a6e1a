package config

import "testing"

func TestModeFaults(t *testing.T) {
	for _, value := range []string{`"Observe"`, `""`, `"off"`, `true`, `1`} {
		wantFaults(t, "mode = "+value, `1:1: mode: `+value+`: want "enforce", or "observe" to count and log and drop nothing`)
	}
	wantFaults(t, `mode = ["observe"]`, `1:1: mode: ['observe']: want "enforce", or "observe" to count and log and drop nothing`)
	for text, observe := range map[string]bool{"": false, `mode = "enforce"`: false, `mode = "observe"`: true} {
		if got := mustParse(t, text).Spec.Observe; got != observe {
			t.Errorf("%s: observe is %v", text, got)
		}
	}
}

func TestInterfaceFaults(t *testing.T) {
	const want = `want the name of an interface, such as "wg0", or its beginning and *, such as "br-*"`
	const key = `1:1: whitelist_interfaces: `
	for value, fault := range map[string]string{
		`"wg0"`: key + `"wg0": want a list in brackets`,
		`[5]`:   key + `5: want the name of an interface, such as "wg0"`,
		`["*"]`: key + `"*": ` + want,
		`[""]`:  key + `"": ` + want,
		`["."]`: key + `".": ` + want,
		`["wg 0", "br-**", "a*b", "eth0:1", "a/b", "wg\u001b"]`: key + `"wg 0": ` + want + "\n" + key + `"br-**": ` + want + "\n" +
			key + `"a*b": ` + want + "\n" + key + `"eth0:1": ` + want + "\n" + key + `"a/b": ` + want + "\n" + key + `"wg\x1b": ` + want,
		`["abcdefghijklmno", "abcdefghijklmn*"]`: "",
		`["abcdefghijklmnop"]`:                   key + `"abcdefghijklmnop": ` + want,
		`["abcdefghijklmno*"]`:                   key + `"abcdefghijklmno*": ` + want, // nft reads no more
		`["wg0", "wg0"]`:                         key + `"wg0" stands twice`,
		`["wg0", "wg*", "br-*"]`:                 "",
	} {
		if text := "whitelist_interfaces = " + value; fault == "" {
			mustParse(t, text)
		} else {
			wantFaults(t, text, fault)
		}
	}
}

func TestKnockFaults(t *testing.T) {
	const port, scan = "want a port from 1 to 65535", "a scan would knock; want an order that a scan does not have"
	for text, fault := range map[string]string{
		`tcp = 7001`:                           `2:1: knock.tcp: 7001: want a list in brackets`,
		`tcp = ["7001", 0, 65536, -1]`:         "2:1: knock.tcp: \"7001\": " + port + "\n2:1: knock.tcp: 0: " + port + "\n2:1: knock.tcp: 65536: " + port + "\n2:1: knock.tcp: -1: " + port,
		`tcp = [7001]`:                         `2:1: knock.tcp: 1 ports: want 2 to 8, or none`,
		`tcp = [9, 2, 3, 4, 5, 6, 7, 8, 1]`:    `2:1: knock.tcp: 9 ports: want 2 to 8, or none`,
		`tcp = [7001, 8002, 7001]`:             `2:1: knock.tcp: 7001 stands twice: want distinct ports`,
		`tcp = [7001, 7002]`:                   `2:1: knock.tcp: 7001 to 7002 one after the other: ` + scan,
		`tcp = [7003, 7002, 7001]`:             `2:1: knock.tcp: 7003 to 7001 one after the other: ` + scan,
		`within = "0s"`:                        `2:1: knock.within: "0s": want a duration from 1s to 10m, such as 90 (seconds) or "10m"`,
		`within = "11m"`:                       `2:1: knock.within: "11m": want a duration from 1s to 10m, such as 90 (seconds) or "10m"`,
		`allow = "soon"`:                       `2:1: knock.allow: "soon": want a duration from 1s to 3650d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`,
		`ports = [7001]`:                       `2:1: knock.ports: unknown key: want tcp, within or allow`,
		`tcp = [7001, 7003, 7002]`:             "",
		`tcp = [9, 2, 3, 4, 5, 6, 7, 8]`:       "",
		"tcp = []\nwithin = 600\nallow = '1w'": "",
	} {
		if text := "[knock]\n" + text; fault == "" {
			mustParse(t, text)
		} else {
			wantFaults(t, text, fault)
		}
	}
	wantFaults(t, "knock = 5", "1:1: knock: 5: want a table, a line [knock] with its keys below")
	wantWarnings(t, "[knock]\ntcp = [8002, 23]",
		"2:1: knock.tcp: a port of the sequence is among trap.tcp: packets to it are knocks, and no trap")
}
