package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// configuration is that of Postern for a setting: what the packages ship, with all
// checks, and the rules.
func (b *benchmark) configuration(s setting) string {
	cert, key := b.edge(s.rsa)
	dir := b.lab.dir
	return fmt.Sprintf(`[intercept]
method = "tproxy"
interfaces = ["lan0"]
bypass = ["%s/32"]
[[tls.certificate]]
name = "edge"
cert = %q
key = %q
[tls.trust]
ca = %q
[resolver]
servers = ["127.0.0.1:53"]
[verify]
cache = %q
[memory]
store = %q
[log]
output = %q
[limits]
%s
%s`, benchBypass, cert, key, filepath.Join(dir, "root.pem"), filepath.Join(dir, "policies"), "bolt://"+filepath.Join(dir, "memory.db"),
		b.logPath(), s.limits, manyRules(s.rules))
}

// manyRules are rules of every kind, so many in all but for the rest of a division by
// five. The last is the one that binds the mail of the benchmark; the others do not
// match.
func manyRules(n int) string {
	var text strings.Builder
	for i := range max(1, (n-1)/5) {
		fmt.Fprintf(&text, `
[[rule]]
name = "domain%[1]d"
to_domains = ["d%[1]d.example", "*.d%[1]d.example"]
tls = "forced"
verify = "name"
names = ["*.mail.d%[1]d.example"]
[[rule]]
name = "network%[1]d"
to_networks = ["100.%[2]d.%[3]d.0/24", "2001:db8:a:%[1]x::/64"]
tls = "forced"
min_version = "1.3"
[[rule]]
name = "mx%[1]d"
to_mx_of = ["m%[1]d.example"]
tls = "forced"
[[rule]]
name = "client%[1]d"
from_networks = ["10.%[4]d.%[3]d.0/24"]
tls = "forced"
forward_secrecy = true
[[rule]]
name = "sender%[1]d"
from_domains = ["s%[1]d.example"]
tls = "forced"
client_tls = "required"
`, i, 64+i/256, i%256, 64+i/256)
	}
	text.WriteString(`
[[rule]]
name = "partner"
to_domains = ["partner.example"]
tls = "forced"
verify = "name"
names = ["mx.partner.example"]
`)
	return text.String()
}
