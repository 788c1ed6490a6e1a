// Package config reads portmon's configuration: TOML in, a [ruleset.Spec] and
// the watcher's settings out.
//
// It is strict. An unknown key, a value of the wrong type or outside its
// range, ports that overlap and a whitelist file that cannot be read are all
// faults; [Parse] reports every fault of the file and of its whitelist files in
// one go, each with its line, as [Errors]. What is accepted but probably not
// meant, such as a whitelisted network with host bits set, becomes a [Warning].
//
// [Reference] is the default configuration as a file, with every key explained.
// It is what a user should read.
package config
