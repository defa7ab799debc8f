package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/miekg/dns"
)

// maxServers is how many of resolv.conf programs ask (MAXNS, resolv.conf(5)).
const maxServers = 3

// Asked is whom Postern asks about domains.
type Asked struct {
	Servers []netip.AddrPort
	// Believes says whether what one says of DNSSEC is believed (trust_ad).
	Believes func(netip.AddrPort) bool
	// Demanded: a rule has no mail pass where DNSSEC secures nothing.
	Demanded bool
}

// resolver asks each server for a name that is signed, the root, and looks whether
// the answer is said to be authentic (RFC 4035 §3.2.3). Without one that is
// believed there is no DANE: what a domain publishes is then not enforced, and a
// rule that demands it lets nothing pass.
func resolver(ctx context.Context, e *examination) ([]Finding, error) {
	severity, why := Note, "no TLSA record counts, and DANE is enforced of nobody"
	if e.Resolver.Demanded {
		severity, why = Problem, "no TLSA record counts, and a rule with verify = \"dane\" lets no mail pass"
	}
	mend := []string{"apt-get install unbound # or dnf; then name 127.0.0.1:53 in [resolver]"}
	var found []Finding
	for _, server := range e.Resolver.Servers {
		name := server.String()
		if server.Port() == 53 {
			name = server.Addr().String()
		}
		authentic, err := Validates(ctx, server)
		switch {
		case err != nil:
			found = append(found, Finding{Severity: severity, What: fmt.Sprintf("the resolver %s gives no answer for a signed name: %v", name, err), Why: why, Mend: mend})
		case !authentic:
			found = append(found, Finding{Severity: severity, What: fmt.Sprintf("the resolver %s does not validate (no AD for a signed name)", name), Why: why, Mend: mend})
		case e.Resolver.Believes != nil && !e.Resolver.Believes(server):
			found = append(found, Finding{Severity: severity, What: fmt.Sprintf("the resolver %s validates, and is not believed: it is not on this machine", name),
				Why: why, Mend: mend})
		default:
			return nil, nil // one is enough
		}
	}
	return found, nil
}

// Validates asks a resolver, and waits two seconds at most.
func Validates(ctx context.Context, server netip.AddrPort) (bool, error) {
	query := new(dns.Msg)
	query.SetQuestion(".", dns.TypeSOA)
	query.AuthenticatedData = true // RFC 6840 §5.7: tell me, without the signatures
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := dns.Client{Net: "udp", Timeout: patience}
	answer, _, err := client.ExchangeContext(ctx, query, server.String())
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(ctx, query, server.String())
	}
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return false, fmt.Errorf("nothing came within %s", patience)
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = errno // without the port of ours, which nobody asked for
	}
	if err != nil {
		return false, err
	}
	if answer.Rcode != dns.RcodeSuccess {
		return false, errors.New(dns.RcodeToString[answer.Rcode])
	}
	return answer.AuthenticatedData, nil
}

// Resolvers are those that programs on this machine ask.
func Resolvers() ([]netip.Addr, error) { return resolvers("/etc/resolv.conf") }

// resolvers reads resolv.conf(5). Without one, programs ask this machine.
func resolvers(path string) ([]netip.Addr, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var out []netip.Addr
	lines := bufio.NewScanner(file)
	for lines.Scan() && len(out) < maxServers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if address, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, address)
		}
	}
	if len(out) == 0 {
		out = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return out, lines.Err()
}
