package main

import (
	"fmt"
	"strings"

	"postern/proxy"
)

// words say what was found and what comes next.
func (p *proposal) words(in initiation) string {
	var b strings.Builder
	b.WriteString("found on this machine:\n")
	line := func(about, words string) { paragraph(&b, fmt.Sprintf("  %-13s ", about), words) }
	for _, i := range p.machine.Interfaces {
		line("interface", foundInterface(i))
	}
	line("taken", "connections that come in on "+strings.Join(p.interfaces, ", "))
	line("forwarding", p.forwardingWords())
	for _, r := range p.machine.Resolvers {
		line("resolver", r.Address.String()+" "+resolverWords(r.Validates, r.Err))
	}
	for _, c := range p.certificates {
		words := fmt.Sprintf("%s for %s", c.Cert, quotedList(c.Names))
		if c.but != "" {
			words += ", not used yet: " + c.but
		}
		line("certificate", words)
	}
	if len(p.certificates) == 0 {
		line("certificate", "none whose key is beside it: clients are not offered STARTTLS")
	}
	if p.machine.MailServer != "" {
		line("port 25", p.machine.MailServer+" listens here: what this machine sends and gets itself passes Postern by")
	}
	p.firewalls(line)
	for _, o := range p.obstacles {
		line("in the way", o.Msg)
	}
	p.next(&b, in)
	return b.String()
}

func (p *proposal) forwardingWords() string {
	word := map[bool]string{true: "on", false: "off"}
	words := "IPv4 " + word[p.machine.Forwards4]
	if p.machine.IPv6 {
		words += ", IPv6 " + word[p.machine.Forwards6]
	}
	return words
}

func (p *proposal) firewalls(line func(about, words string)) {
	switch {
	case p.hindranceErr != nil:
		line("firewall", "could not be looked at: "+p.hindranceErr.Error())
	case len(p.hindrances) == 0:
		line("firewall", "no input chain of nftables or iptables-nft keeps connections out")
	}
	for _, h := range p.hindrances {
		line("firewall", h.What)
	}
}

// next are the commands, each in a line that can be pasted.
func (p *proposal) next(b *strings.Builder, in initiation) {
	flags := ""
	switch in.output {
	case "-":
		b.WriteString("\nnothing was written. Next:\n  postern init\n")
		return
	case defaultConfig:
	default:
		flags = " --config " + proxy.ShellWord(in.output)
	}
	fmt.Fprintf(b, "\nwrote %s. Next:\n", in.output)
	for _, c := range p.commands() {
		fmt.Fprintf(b, "  %s\n", c)
	}
	start := fmt.Sprintf("postern intercept up%s\n  postern run%s", flags, flags)
	if p.machine.Packaged && flags == "" {
		start = "systemctl enable --now postern.target"
	}
	fmt.Fprintf(b, "  postern check%s\n  %s\n  postern doctor%s\n", flags, start, flags)
}

// commands are those without which the configuration would not do what it says.
func (p *proposal) commands() []string {
	var out []string
	if !p.bridged() && p.machine.MailServer == "" {
		if !p.machine.Forwards4 {
			out = append(out, "sysctl -w net.ipv4.ip_forward=1")
		}
		if p.machine.IPv6 && !p.machine.Forwards6 {
			out = append(out, "sysctl -w net.ipv6.conf.all.forwarding=1")
		}
	}
	for _, h := range p.hindrances {
		out = append(out, h.Command)
	}
	return out
}

// bridged is true where all interfaces are bridges, which forward by themselves.
func (p *proposal) bridged() bool {
	for _, name := range p.interfaces {
		isBridge := func(i proxy.MachineInterface) bool { return i.Name == name && i.Bridge }
		found := false
		for _, i := range p.machine.Interfaces {
			found = found || isBridge(i)
		}
		if !found {
			return false
		}
	}
	return true
}
