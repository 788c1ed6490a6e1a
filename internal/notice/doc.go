// Package notice notifies people of what the watcher has seen: by ntfy, by a
// command, by both or by neither.
//
// # Gathering
//
// The first event after a quiet time is sent a second later, with what else
// came in that second. From then on there is at most one notice in a window, a
// minute by default, however many events there are. A notice of one event tells
// it in full:
//
//	web1: 203.0.113.7 banned
//	203.0.113.7 banned for 8h: tcp port 23
//
// One of several is a summary: how many of which kind, some names of each (of
// the escalated those with the highest tier), the ports that were asked for
// most, and how many are left out:
//
//	web1: 1 escalated, 240 banned
//	1 escalated: 203.0.113.7 to tier 2
//	240 banned: 198.51.100.1, 198.51.100.9, 198.51.100.23, 198.51.100.42, 198.51.100.77 and 235 more
//	offences at tcp port 23 (180), tcp port 445 (52), others (9)
//
// What waits is counted, not kept, so that who sends packets cannot make it
// grow: 5 names of each kind, and up to 4096 ports counted one by one.
//
// The priority of a notice is the highest that one of its events has: 4 (high)
// if a set is full or the table was deleted; 3 (default) for an escalation to
// the last tier, bans by hand, lifted and restored bans, repairs of the table,
// and `portmon remove`; 2 (low) for all other bans.
//
// # ntfy
//
// A notice is a POST of the message to the URL of the topic, with the headers
// X-Title, X-Priority and X-Tags, which go before parameters of that name in
// the URL; other parameters are ntfy's. The tags are the name of an emoji and
// "portmon". With a token file, its content without white space around it is
// the access token, sent as "Authorization: Bearer"; the file is read each
// time, so that it can be replaced. Neither token nor topic appears in an
// error. HTTPS_PROXY, HTTP_PROXY and NO_PROXY are heeded.
//
// A try may take 20 seconds. If the network fails, the token cannot be read, or
// the server answers 408, 429 or 5xx, there are five more tries, after 2 s, 10
// s, 30 s, 1 min and 2 min, or later if Retry-After asks for that, up to 15
// min. What happens meanwhile waits for the next notice. Other answers,
// redirects among them, are final: a redirect is not followed, as the token
// would go wherever it leads. A notice that is given up is reported, and
// its events count as dropped.
//
// # Command
//
// A program is run for each notice, without a shell, in the directory /, with
// nothing on stdin and stdout thrown away; never two at a time. A program that
// exits with another code than 0 has failed; the error shows the end of its
// stderr. It is not run again. After 30 seconds it is killed, with all in its
// process group. What it leaves behind otherwise lives on.
//
// Its environment has PATH and, as far as they are set for the watcher, HOME,
// USER, LOGNAME, LANG, LC_ALL, TZ, TMPDIR and CREDENTIALS_DIRECTORY; and what
// there is to tell. A variable that does not apply, or whose value is not
// known, is not set. [Variables] lists them.
//
// # The end
//
// When the watcher ends there is one more try, at once, to send what waits. It
// is cut off after 5 seconds.
package notice
