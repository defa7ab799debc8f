package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"postern/proxy"
)

// file writes the configuration. Whatever comes of the machine is quoted: a name
// may hold anything, and in a comment a newline would be a key.
func (p *proposal) file() string {
	var b strings.Builder
	say := func(lines ...string) { b.WriteString(strings.Join(lines, "\n") + "\n") }
	say("# The configuration of Postern, written by \"postern init\" from what it found on",
		"# this machine. A line that begins with # and a key is a suggestion.",
		"#",
		"#   postern check          is it sound, and what does it do, in words?",
		"#   postern intercept up   have the kernel send connections here",
		"#   postern doctor         what is wrong on this machine, and what mends it?",
		"#",
		"# postern.toml(5), and the file that the package installs, show every key.",
		"",
		"# enforce | observe. To begin carefully, take the # away: verdicts are recorded, and",
		"# nothing is refused until the records say what you expected.",
		"#mode = \"observe\"",
		"",
		"[intercept]")
	p.interfacesOf(&b)
	p.sourcesOf(&b)
	say("# Who is left alone, as sender or as destination. Clients that check the server's",
		"# certificate themselves see Postern's instead, and refuse it: mail servers that do",
		"# DANE or MTA-STS, and Exchange that talks to Exchange (hybrid, another organisation",
		"# of the same house). They belong here, or under a rule with inspect = \"watch\" (see",
		"# below). So do machines that must not be touched.",
		"#bypass = [\"192.0.2.25/32\"]",
		"# What connections meet while Postern does not run: a reset, so that senders try",
		"# again later (block), or the open way, unguarded (pass).",
		"#when_down = \"block\"",
		"")
	p.localMail(&b)
	p.listenOf(&b)
	p.certificatesOf(&b)
	p.resolversOf(&b)
	say("# What must hold for a partner. Without rules: TLS wherever the server offers it,",
		"# and never below TLS 1.2.",
		"#[[rule]]",
		"#name = \"partner\"",
		"#to_domains = [\"partner.example\", \"*.partner.example\"]",
		"#tls = \"forced\"",
		"#verify = \"name\"",
		"#names = [\"*.partner.example\"]",
		"",
		"# A mail server that does DANE itself, or Exchange in a hybrid: its TLS passes through",
		"# to the server, and is cut where it falls below TLS 1.2.",
		"#[[rule]]",
		"#name = \"hybrid\"",
		"#from_networks = [\"192.0.2.25/32\"]",
		"#inspect = \"watch\"",
		"#owner = \"it-sec\"",
		"#expires = 2027-06-30")
	return b.String()
}

func (p *proposal) interfacesOf(b *strings.Builder) {
	b.WriteString("# Where the connections come in. Found here:\n")
	for _, i := range p.machine.Interfaces {
		fmt.Fprintf(b, "#   %s\n", foundInterface(i))
	}
	fmt.Fprintf(b, "# %s\n", p.why)
	fmt.Fprintf(b, "# Mail from outside is looked at too where the outside interface is named as well.\ninterfaces = %s\n", tomlList(p.interfaces))
}

func foundInterface(i proxy.MachineInterface) string {
	where := "inside"
	if i.Outside {
		where = "outside (default route)"
	}
	if i.Bridge {
		where += ", a bridge"
	}
	parts := []string{fmt.Sprintf("%q", i.Name), where}
	for _, n := range i.Networks {
		parts = append(parts, n.String())
	}
	return strings.Join(parts, ", ")
}

// sourcesOf suggests the networks behind the interfaces, those of both families.
func (p *proposal) sourcesOf(b *strings.Builder) {
	var networks []string
	for _, i := range p.machine.Interfaces {
		if i.Outside {
			continue
		}
		for _, n := range i.Networks {
			if n != netip.PrefixFrom(n.Addr(), n.Addr().BitLen()) {
				networks = append(networks, n.String())
			}
		}
	}
	b.WriteString("# Whose connections are taken; without this key everybody's.\n")
	if len(networks) > 0 {
		fmt.Fprintf(b, "#sources = %s\n", tomlList(networks))
		return
	}
	b.WriteString("#sources = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n")
}

// localMail speaks to a mail host, whose own mail comes in on no interface.
func (p *proposal) localMail(b *strings.Builder) {
	if p.machine.MailServer == "" {
		return
	}
	fmt.Fprintf(b, "# On port 25 of this machine listens %q. What this machine sends and gets itself\n# is not forwarded, and passes Postern by.", p.machine.MailServer)
	if !p.machine.Forwards4 && !p.machine.Forwards6 {
		b.WriteString(" It forwards nothing, and so is probably\n# a mail host and no gateway. For the mail that it sends, instead of the above:\n" +
			"#interfaces = [\"lo\"]\n#method = \"redirect\"\n#preserve_source = false\n" +
			"# and in [listen]: addresses = [\"0.0.0.0:2525\", \"[::]:2525\"]")
	}
	b.WriteString("\n\n")
}

func (p *proposal) listenOf(b *strings.Builder) {
	addresses := []string{fmt.Sprintf("127.0.0.1:%d", p.port)}
	if p.machine.IPv6 {
		addresses = append(addresses, fmt.Sprintf("[::1]:%d", p.port))
	}
	b.WriteString("[listen]\n")
	switch {
	case p.port != 2525:
		b.WriteString("# Another program has port 2525. The sockets of the package's postern.socket need\n# the same change (systemctl edit postern.socket).\n")
	case !p.machine.IPv6:
		b.WriteString("# The kernel of this machine has no IPv6.\n")
	default:
		b.WriteString("#")
	}
	fmt.Fprintf(b, "addresses = %s\n\n", tomlList(addresses))
}

func (p *proposal) certificatesOf(b *strings.Builder) {
	b.WriteString("# What clients are shown that speak STARTTLS themselves. Without a certificate they\n# are not offered it, and only the way to the server is secured.\n")
	if len(p.certificates) == 0 {
		b.WriteString("# None was found whose key is beside it.\n#[[tls.certificate]]\n#name = \"edge\"\n#cert = \"/etc/postern/tls/cert.pem\"\n#key = \"/etc/postern/tls/key.pem\"\n\n")
	}
	for _, c := range p.certificates {
		fmt.Fprintf(b, "# For %s, until %s.\n", quotedList(c.Names), c.NotAfter.UTC().Format(time.DateOnly))
		comment := ""
		if c.but != "" {
			comment = "#"
			fmt.Fprintf(b, "# Not used yet: %s.\n", c.but)
		}
		for _, line := range []string{"[[tls.certificate]]", "name = " + tomlString(c.name), "cert = " + tomlString(c.Cert), "key = " + tomlString(c.Key)} {
			b.WriteString(comment + line + "\n")
		}
		b.WriteString("\n")
	}
}

// resolversOf names the resolvers that programs of this machine ask: one here that
// validates, if there is one, for only such a one is believed.
func (p *proposal) resolversOf(b *strings.Builder) {
	var here, answering []string
	for _, r := range p.machine.Resolvers {
		fmt.Fprintf(b, "# The resolver %s %s.\n", r.Address, resolverWords(r.Validates, r.Err))
		place := netip.AddrPortFrom(r.Address, 53).String()
		switch {
		case r.Err == nil && r.Validates && r.Address.IsLoopback():
			here = append(here, place)
		case r.Err == nil:
			answering = append(answering, place)
		}
	}
	if len(here) > 0 {
		fmt.Fprintf(b, "[resolver]\nservers = %s\n\n", tomlList(here))
		return
	}
	b.WriteString("# Without one on this machine that validates DANE is enforced of nobody.\n")
	if len(answering) > 0 {
		fmt.Fprintf(b, "[resolver]\nservers = %s\n", tomlList(answering))
	}
	b.WriteString("\n")
}

func resolverWords(validates bool, err error) string {
	switch {
	case err != nil:
		return "gives no answer for a signed name (" + fmt.Sprintf("%q", err.Error()) + ")"
	case validates:
		return "validates (DNSSEC)"
	}
	return "does not validate (DNSSEC)"
}

// tomlString is a basic string (TOML 1.0), in which \u is what Go's %+q writes for
// everything beyond ASCII. What is no text at all is refused by the check that
// follows.
func tomlString(s string) string { return fmt.Sprintf("%+q", s) }

func tomlList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = tomlString(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func quotedList(names []string) string {
	if len(names) == 0 {
		return "no name"
	}
	const most = 8
	quoted := make([]string, 0, most)
	for i, n := range names {
		if i == most {
			quoted = append(quoted, fmt.Sprintf("%d more", len(names)-most))
			break
		}
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	return strings.Join(quoted, ", ")
}
