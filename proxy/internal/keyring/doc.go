// Package keyring holds the certificates that the proxy shows and the roots that
// it trusts. A Ring is loaded whole or not at all and never changes; a reload
// loads another one, and whoever used the old one goes on using it.
//
// It takes part in no handshake and decides nothing about one: whether a chain
// that did not verify matters is for a rule to say. It checks no name and no
// revocation, follows no file that changes, and writes none: the keys that it
// loads and those that it mints certificates with are in memory alone. What came of
// a chain is kept there, too, as long as looking anew would say the same.
package keyring
