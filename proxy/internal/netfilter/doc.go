// Package netfilter says what the input chains of this network namespace make of
// a packet that is not there: let in, kept out, or not to be told. It reads the
// chains of nftables, which are also those of iptables-nft, as the kernel gives
// them, and follows a packet of which only some bits are known through them.
//
// It takes no verdict of its own about what should be let in, and it never
// changes a rule. What iptables-legacy made is nowhere in nftables and so not
// seen; [Legacy] says whether there is any. Of chains of other hooks
// it only sees what has packets untracked on their way in; tc and XDP are not looked
// at.
package netfilter
