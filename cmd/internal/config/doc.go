// Package config reads the configuration file, TOML, into the values that a
// proxy runs on. It finds every fault of the file in one go and says of each
// where it stands, what was found and what was expected. A key that is unknown,
// that has no effect beside the others, or that speaks of what this release does
// not do is a fault: a demand that is silently not enforced is the worst that a
// file could hold.
//
// It opens no other file than the configuration itself, looks at no interface
// and asks no name server: whether a certificate loads or an interface exists is
// found out by whoever uses it, and put into the words of the file by
// File.Locate. It does not watch the file; a reload is another Load.
package config
