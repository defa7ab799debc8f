package main

import (
	"slices"
	"strings"

	"postern/proxy"
)

// takesOwn reports whether connections of the machine itself are taken.
func takesOwn(in proxy.Intercept) bool {
	return in.Method == "redirect" && slices.Contains(in.Interfaces, "lo")
}

// interfaceWords names the interfaces, and says what lo among them means.
func interfaceWords(in proxy.Intercept) string {
	words := slices.Clone(in.Interfaces)
	if takesOwn(in) {
		i := slices.Index(words, "lo")
		words[i] = "lo (connections that this machine itself makes, but for those of user " + in.User + ")"
	}
	return strings.Join(words, ", ")
}

// seenWords say whom servers see.
func seenWords(in proxy.Intercept) string {
	switch {
	case in.PreserveSource:
		return "servers see the client's own address"
	case takesOwn(in):
		return "servers see the address of this machine, of its own connections the one that they were made from"
	}
	return "servers see the address of this machine"
}
