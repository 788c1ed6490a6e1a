# Reads lines "SUITE RESULT PROMISE STATUS DETAIL", and in the file that differences names "KERNEL PACKAGE TEST REASON".
BEGIN {
	title["install"] = "the deb installs, and starts nothing"
	title["start"] = "`systemctl enable --now`"
	title["packet-bans"] = "a packet from another host bans, before and after each of these"
	title["restart"] = "bans outlast `restart nftables`"
	title["reload"] = "bans outlast `reload nftables`"
	title["stop-start"] = "bans outlast `stop nftables`, which empties the ruleset, and `start nftables`"
	title["flush"] = "with the watcher, bans outlast `nft flush ruleset`"
	title["notice"] = "a notice command runs within the sandbox of the unit"
	title["comes-back"] = "the watcher comes back when it was killed, and when it hangs"
	title["power-cut"] = "with the watcher, bans outlast a power cut three seconds after they were made"
	title["reboot"] = "bans outlast a reboot"
	title["purge"] = "purge leaves nothing behind"
	title["typed"] = "what docs/operations.md has its readers type works"
	title["journal"] = "systemd knows all words of the units"
	n = split(suites, suite, " ")
	while ((getline line < differences) > 0) {
		if (line ~ /^#/ || line ~ /^$/) continue
		split(line, word, " ")
		reason = line
		sub(/^[^ ]+ +[^ ]+ +[^ ]+ +/, "", reason)
		expected[word[1] " test:" word[2] ":" word[3]] = reason
	}
}
$2 == "END" { ended[$1] = 1 }
$2 != "RESULT" { next }
{
	promise = $3; status = $4
	detail = $0
	sub(/^[^ ]+ [^ ]+ [^ ]+ [^ ]+ ?/, "", detail)
	if (promise == "kernel") { kernel[$1] = detail; next }
	if (promise == "systemd") { systemd[$1] = detail; next }
	if (status ~ /^exit/) status = "ok" # the tests that failed have lines of their own
	parts = split(promise, part, ":")
	if (part[1] == "test" && parts == 2) {
		if (ran[$1, part[2]]) forget($1, part[2]) # it has run again
		ran[$1, part[2]] = 1
		promise = "tests of " part[2]
	} else if (part[1] == "test") {
		key = version($1) " " promise
		if (status == "FAIL" && key in expected) {
			status = "but"
			detail = expected[key]
			met[key] = 1
		}
		notes[++noted] = $1 ": " part[2] " " part[3] ": " detail
		about[noted] = $1 " " part[2]
		promise = "tests of " part[2]
	} else {
		if (status == "FAIL") notes[++noted] = $1 ": " promise ": " detail
		promise = title[part[parts]]
	}
	if (!(promise in seen)) { seen[promise] = 1; order[++promises] = promise }
	at = promise SUBSEP $1
	if (!(at in cell) || rank(status) > rank(cell[at])) cell[at] = status
}
function forget(suite, package,   i) {
	delete cell["tests of " package, suite]
	for (i = 1; i <= noted; i++) if (about[i] == suite " " package) notes[i] = ""
}
# version returns the kernel of a suite, as in 6.1.
function version(suite) { return match(kernel[suite], /^[0-9]+\.[0-9]+/) ? substr(kernel[suite], 1, RLENGTH) : "?" }
function rank(status) { return index("ok  slowbut FAIL", status) }
END {
	head = "| |"; line = "|---|"; versions = "| systemd |"
	for (i = 1; i <= n; i++) {
		head = head " " suite[i] ", " kernel[suite[i]] " |"
		line = line "---|"
		versions = versions " " systemd[suite[i]] " |"
	}
	print head; print line; print versions
	for (p = 1; p <= promises; p++) {
		row = "| " order[p] " |"
		for (i = 1; i <= n; i++) {
			at = order[p] SUBSEP suite[i]
			status = at in cell ? cell[at] : "?"
			if (status == "FAIL" || status == "?") failed = 1
			row = row " " status " |"
		}
		print row
	}
	print ""
	for (i = 1; i <= noted; i++) if (notes[i] != "") print "- " notes[i]
	for (key in expected) {
		split(key, word, "[ :]")
		for (i = 1; i <= n; i++) {
			if (word[1] == version(suite[i]) && (suite[i], word[3]) in ran && !(key in met)) print "- " suite[i] ": " word[3] " " word[4] " passed: take it out of the expected"
		}
	}
	for (i = 1; i <= n; i++) if (!ended[suite[i]]) { print "- " suite[i] ": did not come to its end"; failed = 1 }
	exit failed
}
