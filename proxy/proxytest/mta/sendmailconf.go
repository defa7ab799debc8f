package mta

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// sendmail has no maildirs, and its mailbox files escape lines: a program stands
// in for its local delivery. It gets the sender, the recipient and a domain that is
// its own or "nowhere", and the message on its input; only what is complete is in
// new. To nowhere it says EX_NOUSER of sysexits.h, so that the message bounces.
const (
	keepProgram = "/etc/mail/keep"
	keepScript  = `#!/bin/sh
set -e
[ "$3" != nowhere ] || exit 67
cd /mail/` + inbox + `
file=$(mktemp tmp/XXXXXXXXXXXX)
{ printf 'Return-Path: <%s>\nDelivered-To: %s\n' "$1" "$2"; cat; } >"$file"
mv "$file" new/
`
)

// sendmailFile is the source of sendmail.cf in m4. Nothing in it asks DNS or the
// client's host, nor minds the machine's load.
func sendmailFile(o Options) string {
	definitions := map[string]string{
		"confDOMAIN_NAME":         o.Name,
		"confMAX_MESSAGE_SIZE":    "104857600",
		"confTO_IDENT":            "0",
		"confSMTP_LOGIN_MSG":      "$j Sendmail",
		"confPID_FILE":            "/run/sendmail.pid",
		"confDELIVERY_MODE":       "background",
		"confMIN_FREE_BLOCKS":     "0",
		"confQUEUE_LA":            "10000",
		"confREFUSE_LA":           "10000",
		"confDELAY_LA":            "0",
		"confCON_EXPENSIVE":       "True", // the flag e of a mailer counts
		"STATUS_FILE":             "/dev/null",
		"confSERVICE_SWITCH_FILE": "/etc/mail/service.switch",
		// In a user namespace the machine's directories are nobody's.
		"confDONT_BLAME_SENDMAIL": "GroupWritableDirPathSafe,AssumeSafeChown,TrustStickyBit,NonRootSafeAddr",
	}
	if o.Certificate != "" {
		definitions["confSERVER_CERT"] = certificateFile
		definitions["confSERVER_KEY"] = keyFile
		definitions["confCACERT"] = certificateFile
		definitions["confCACERT_PATH"] = "/etc/mail"
	}
	if o.Together {
		definitions["confQUEUE_SORT_ORDER"] = "Host"
	}
	maps.Copy(definitions, o.Parameters)
	var b strings.Builder
	b.WriteString("divert(0)dnl\nOSTYPE(`linux')dnl\nundefine(`ALIAS_FILE')dnl\n")
	for _, key := range slices.Sorted(maps.Keys(definitions)) {
		fmt.Fprintf(&b, "define(`%s', `%s')dnl\n", key, definitions[key])
	}
	b.WriteString("FEATURE(`no_default_msa')dnl\nFEATURE(`nocanonify')dnl\n" +
		"FEATURE(`accept_unresolvable_domains')dnl\nFEATURE(`accept_unqualified_senders')dnl\n")
	if len(o.Listen) == 0 {
		o.Listen = []netip.Addr{ownLoopback(o.Name)}
	}
	b.WriteString(sendmailDaemons(o.Listen))
	fmt.Fprintf(&b, "RELAY_DOMAIN(`%s')dnl\nMAILER(`smtp')dnl\n", strings.Join(o.Domains, " "))
	b.WriteString(sendmailMailers(o))
	b.WriteString(sendmailRules(o))
	return b.String()
}

func sendmailDaemons(listen []netip.Addr) string {
	var b strings.Builder
	for i, address := range listen {
		family := "inet"
		if address.Is6() {
			family = "inet6"
		}
		fmt.Fprintf(&b, "DAEMON_OPTIONS(`Name=MTA%d, Family=%s, Addr=%s, Port=25')dnl\n", i, family, address)
	}
	return b.String()
}

// sendmailMailers are the ways that mail can go: to the mailbox, and one for
// each port, which stands in the mailer; more than 25 there cannot be. Flags: X doubles dots, a is
// ESMTP, 8 leaves 8 bit as it is, e waits for a queue run, n writes no "From ".
// Users stand there by number: some mailers with names are dropped without a word.
// A line may be longer than any that RFC 5321 §4.5.3.1.6 allows: sendmail's own
// mailers break it after 990 bytes.
func sendmailMailers(o Options) string {
	const common = " S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, "
	var b strings.Builder
	b.WriteString("MAILER_DEFINITIONS\n")
	fmt.Fprintf(&b, "Mkeep, P=%s, F=DFMnu8, U=%d:%d,%sT=DNS/RFC822/X-Unix, A=keep $f $u $h\n", keepProgram, keeper.id, keeper.id, common)
	wait := ""
	if o.Together {
		wait = "e"
	}
	ports := map[uint16]bool{}
	for _, to := range o.Routes {
		ports[to.Port()] = true
	}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		fmt.Fprintf(&b, "Mport%[1]d, P=[IPC], F=mDFMuXa8%[2]s,%[3]sE=\\r\\n, L=2040, T=DNS/RFC822/SMTP, A=TCP $h %[1]d\n", port, wait, common)
	}
	return b.String()
}

// sendmailRules choose the mailer by the domain, and the use of TLS.
func sendmailRules(o Options) string {
	var b strings.Builder
	b.WriteString("LOCAL_RULE_0\n")
	rule := func(domain, mailer, host string) {
		// nocanonify leaves some domains without the dot that ends them.
		fmt.Fprintf(&b, "R$+ < @ %[1]s . > $*\t$#%[2]s $@ %[3]s $: $1 < @ %[1]s . >\n"+
			"R$+ < @ %[1]s > $*\t$#%[2]s $@ %[3]s $: $1 < @ %[1]s . >\n",
			domain, mailer, host)
	}
	for _, domain := range o.Domains {
		rule(domain, "keep", domain)
	}
	last := "R$+ < @ $+ > $*\t$#keep $@ nowhere $: $1 < @ $2 >\n"
	for domain, to := range o.Routes {
		host := "[" + to.Addr().String() + "]"
		if to.Addr().Is6() {
			host = "[IPv6:" + to.Addr().String() + "]"
		}
		if domain == "*" {
			last = fmt.Sprintf("R$+ < @ $+ > $*\t$#port%d $@ %s $: $1 < @ $2 >\n", to.Port(), host)
		} else {
			rule(domain, fmt.Sprintf("port%d", to.Port()), host)
		}
	}
	b.WriteString(last)
	switch o.TLS {
	case Encrypt:
		b.WriteString("LOCAL_TLS_SERVER\nRNONE\t$#error $@ 4.7.0 $: \"454 TLS is demanded\"\n")
	case May:
	default:
		b.WriteString("LOCAL_TRY_TLS\nR$*\t$#error $@ 5.7.1 $: \"550 no TLS is wanted\"\n")
	}
	if o.Lenient {
		// Since the backport of 8.18: O takes other ends of a message than a dot
		// between CRLFs, U a bare CR, G a bare LF, F commands that come too early.
		b.WriteString("LOCAL_SRV_FEATURES\nR$*\t$# O U G F\n")
	}
	return b.String()
}
