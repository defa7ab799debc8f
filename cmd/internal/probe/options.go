package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"time"

	"postern/enforce"
	"postern/enforce/mtasts"
	"postern/enforce/resolver"
	"postern/enforce/revocation"
)

// Options say whom to look at, and by what to judge.
type Options struct {
	// Host or Address is the one server to look at. Without either it is the MX
	// hosts of Domain.
	Host    string // lower-case A-labels
	Address netip.Addr
	// Domain is the recipient domain, a lower-case A-label: what it publishes holds,
	// and rules for it bind. "": none does.
	Domain string
	Port   uint16

	Patience time.Duration // with one connection; 0 is 20 s

	Helo   string           // what EHLO says
	Client netip.Addr       // who connects, for rules; the zero Addr: whoever this machine is to the server
	Sender *enforce.Address // nil: nothing is known of the sender

	Policy *enforce.Policy
	Known  Knowledge

	// Finished is told of each address that is done with, one at a time. Nil: nobody
	// wants to know.
	Finished func(host string, a *Address)
}

// Knowledge is whom to ask and what to trust.
type Knowledge struct {
	Resolver *resolver.Resolver
	Policies *mtasts.Cache
	Revoked  *revocation.Checker
	// Verify builds a chain to the roots called ca, "" being those that hold without
	// a rule, and gives the one it built.
	Verify func(ca string, chain []*x509.Certificate, now time.Time) (enforce.ChainResult, []*x509.Certificate)
	// Revocation asks about a chain that was built.
	Revocation func(ctx context.Context, built []*x509.Certificate, stapled []byte, now time.Time) (enforce.RevocationResult, revocation.Result)
	// Certificate is shown to a server that asks for one, where a rule has its name.
	Certificate func(name string) *tls.Certificate
}

// What is done at most.
const (
	mostHosts     = 16 // of a domain, the preferred first
	mostAddresses = 16 // of a host
	atOnce        = 8  // connections
	atOnceThere   = 2  // connections to one address: some servers refuse more
	perConnection = 20 * time.Second
	mostReply     = 512 // lines
	mostFailures  = 3   // connections in a row that come to nothing, before an address is left alone
)
