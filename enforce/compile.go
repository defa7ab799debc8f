package enforce

import (
	"crypto/tls"
	"fmt"
	"slices"
)

// DefaultRule is the name of the built-in last rule: opportunistic, for all.
const DefaultRule = "default"

// A RuleError is one fault of one rule. The faults of a list are found all at
// once, so one of them may be no more than the shadow of another; Beside and
// Other say what else a fault rests on, for callers who know that to be faulty
// itself and would rather not show both.
type RuleError struct {
	Rule   int    // which rule, counted from 0
	Key    string // the configuration key at fault; "" when it is the rule as a whole
	Beside string // the key of the same rule that Key is at odds with; "" when there is none
	Other  int    // the earlier rule that is in the way; -1 when there is none
	Msg    string // what was found and what was expected
}

// ConfigKey gives the place in the configuration: "rule[2].min_version".
func (e RuleError) ConfigKey() string {
	if e.Key == "" {
		return fmt.Sprintf("rule[%d]", e.Rule)
	}
	return fmt.Sprintf("rule[%d].%s", e.Rule, e.Key)
}

// Problem gives Msg alone, for callers who print the place their own way.
func (e RuleError) Problem() string { return e.Msg }

// Error gives place and message.
func (e RuleError) Error() string { return e.ConfigKey() + ": " + e.Msg }

// Compile checks rules, given in the order of the file and without the built-in
// last one, and makes a Policy of them. The floor is the lowest TLS version of
// either leg; one below TLS 1.2 is taken as TLS 1.2, for nothing lower can be
// configured.
//
// Any error means that there is no Policy (nil): a list of which some rules could
// not be enforced is not enforced in part. All errors are given, in the order of
// the rules.
func Compile(rules []Rule, floor uint16) (*Policy, []RuleError) {
	floor = max(floor, tls.VersionTLS12)
	all := make([]*compiled, len(rules))
	for i, r := range rules {
		all[i] = compile(r)
	}
	names, everyone := namesakes(rules), togetherForEveryone(all)
	var errs []RuleError
	for i := range rules {
		c := &check{compiled: all[i], index: i, floor: floor}
		c.run()
		errs = append(errs, c.errs...)
		errs = append(errs, names[i]...)
		errs = append(errs, besideEarlier(all, i)...)
		errs = append(errs, everyone[i]...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return newPolicy(all, floor), nil
}

// newPolicy makes a policy of rules, to which it adds the built-in one and what
// to_mx_of implies.
func newPolicy(rules []*compiled, floor uint16) *Policy {
	p := &Policy{floor: floor, last: compile(Rule{Name: DefaultRule, Auto: true})}
	p.rules = append(slices.Clip(rules), p.last)
	var connection, ofClients, ofIdentities []*compiled
	named := map[string]bool{}
	for _, r := range p.rules {
		if r.Envelope() {
			p.envelope = append(p.envelope, r)
		} else {
			connection = append(connection, r)
		}
		for _, domain := range r.ToMXOf {
			if !named[domain] {
				named[domain] = true
				p.mxOf = append(p.mxOf, domain)
			}
		}
		if r.twin != nil {
			p.envelope = append(p.envelope, r.twin)
		}
	}
	for _, r := range p.envelope {
		if r.ClientTLS != ClientAny {
			ofClients = append(ofClients, r)
		}
		if r.ClientTLS == ClientVerified {
			ofIdentities = append(ofIdentities, r)
		}
	}
	p.atConnect = newIndex(connection, false, false)
	p.atMail, p.atRcpt = newIndex(p.envelope, true, false), newIndex(p.envelope, true, true)
	p.ofClients, p.ofIdentities = newIndex(ofClients, false, false), newIndex(ofIdentities, false, false)
	return p
}

// makeTwin gives the same demand on recipients in the domains of to_mx_of, so that
// one is refused at RCPT whose mail goes to an address that DNS did not show us. It
// has nothing that would come too late, or could weaken.
func (r *compiled) makeTwin() *compiled {
	if r.TLS == Off {
		return nil
	}
	t := r.Rule
	t.ToDomains, t.ToMXOf, t.ToNetworks, t.Keys = r.ToMXOf, nil, nil, nil
	t.ServerName, t.ClientCertificate = "", ""
	t.OnHandshakeFailure, t.ClientStartTLS, t.Inspect = Block, Mirror, Terminate
	t.Auto = t.Auto || t.Verify == VerifyNone
	return compile(t)
}

// namesakes refuses each rule that has the name of one before it, by its number.
func namesakes(rules []Rule) map[int][]RuleError {
	errs, first := map[int][]RuleError{}, map[string]int{}
	for i, r := range rules {
		if r.Name == "" {
			continue
		}
		j, taken := first[r.Name]
		if !taken {
			first[r.Name] = i
			continue
		}
		errs[i] = []RuleError{{Rule: i, Key: "name", Other: j,
			Msg: fmt.Sprintf("%q found, expected a name of its own: rule[%d] has this one", r.Name, j)}}
	}
	return errs
}

// besideEarlier checks rule i against those before it.
func besideEarlier(rules []*compiled, i int) []RuleError {
	var errs []RuleError
	for j := range i {
		if hides(rules[j], rules[i]) {
			errs = append(errs, RuleError{Rule: i, Other: j,
				Msg: fmt.Sprintf("%q can never match: %q stands before it and matches all that it does", rules[i].Name, rules[j].Name)})
			break
		}
	}
	if e := besideTwins(rules, i); e != nil {
		errs = append(errs, *e)
	}
	for j := range i {
		if rules[i].Inspect != Watch && rules[j].Inspect != Watch {
			continue
		}
		if w, e := beside(rules[i], rules[j]); w != nil && !w.Excepted() {
			errs = append(errs, RuleError{Rule: i, Other: j,
				Msg: fmt.Sprintf("%q watches TLS that passes through, and %q asks for more of mail that may take that way, expected owner and expires in %q, or another way for it", w.Name, e.Name, w.Name)})
		}
	}
	return errs
}

// besideTwins checks rule i against the demands that to_mx_of of others makes of
// recipients: neither may hide the other, for each is to hold.
func besideTwins(rules []*compiled, i int) *RuleError {
	for j := range i {
		if twin := rules[j].twin; twin != nil && hides(twin, rules[i]) {
			return &RuleError{Rule: i, Other: j, Msg: fmt.Sprintf(
				"%q can never match: to_mx_of of %q stands before it and decides for the same recipients, expected it before %q", rules[i].Name, rules[j].Name, rules[j].Name)}
		}
		if twin := rules[i].twin; twin != nil && rules[j].Envelope() && hides(rules[j], twin) && twin.asksMoreThan(&rules[j].Rule) {
			return &RuleError{Rule: i, Key: "to_mx_of", Other: j, Msg: fmt.Sprintf(
				"%q stands before it, decides for the same recipients and asks for less, expected it behind %q", rules[j].Name, rules[i].Name)}
		}
	}
	return nil
}

// asksMoreThan reports whether r demands of the upstream leg what other does not.
func (r *Rule) asksMoreThan(other *Rule) bool {
	return r.TLS == Forced && other.TLS != Forced || r.Verify != VerifyNone && other.Verify == VerifyNone ||
		r.MinVersion > other.MinVersion || r.ForwardSecrecy && !other.ForwardSecrecy ||
		len(r.Ciphers) > 0 && len(other.Ciphers) == 0 || r.Revocation > other.Revocation
}

// beside tells of two rules which one watches and which one, of the envelope, asks
// for more than that one can see to and may match the same connections; nil when
// they are no such pair.
func beside(a, b *compiled) (watching, stronger *compiled) {
	for _, pair := range [...][2]*compiled{{a, b}, {b, a}} {
		w, e := pair[0], pair[1]
		if w.Inspect != Watch || w.Envelope() {
			continue
		}
		if e.twin != nil {
			e = e.twin
		}
		if e.Envelope() && e.asksFor(&w.Rule) && w.mayMeet(e) {
			return w, e
		}
	}
	return nil, nil
}

// asksFor reports whether r demands anything that other does not.
func (r *Rule) asksFor(other *Rule) bool {
	return r.TLS == Forced && other.TLS != Forced || r.Verify != VerifyNone ||
		r.MinVersion > other.MinVersion || r.ForwardSecrecy && !other.ForwardSecrecy ||
		len(r.Ciphers) > 0 || r.Revocation > other.Revocation || r.ClientTLS > other.ClientTLS
}

// mayMeet reports whether the networks of two rules have anything in common. Of
// to_mx_of nobody knows beforehand.
func (r *compiled) mayMeet(s *compiled) bool {
	return r.from.mayMeet(&s.from) && (len(r.ToMXOf) > 0 || len(s.ToMXOf) > 0 || r.to.mayMeet(&s.to))
}

// Watchers gives, for each rule that watches, the names of the rules of the
// envelope that it keeps from being enforced: an exception that check tells of.
func (p *Policy) Watchers() map[string][]string {
	found := map[string][]string{}
	for _, w := range p.rules {
		if w.Inspect != Watch {
			continue
		}
		for _, e := range p.envelope {
			if watching, _ := beside(w, e); watching == w {
				found[w.Name] = append(found[w.Name], e.Name)
			}
		}
	}
	return found
}

// hides reports whether r, standing before s, leaves it nothing to match. One
// that expires hides nothing, for its day comes. The kinds are judged apart and
// do not hide each other.
func hides(r, s *compiled) bool {
	return r.Envelope() == s.Envelope() && r.Expires.IsZero() &&
		r.toDomains.coversAll(r.ToDomains, s.ToDomains) &&
		r.fromDomains.coversAll(r.FromDomains, s.FromDomains) &&
		r.from.coversAll(&s.from) &&
		r.coversDestinations(s)
}

// coversDestinations reports whether every destination of s is one of r.
func (r *compiled) coversDestinations(s *compiled) bool {
	if !r.to.written && len(r.ToMXOf) == 0 || r.to.written && r.to.coversAll(&networkSet{}) {
		return true
	}
	if !s.to.written && len(s.ToMXOf) == 0 || s.to.written && (!r.to.written || !r.to.coversAll(&s.to)) {
		return false
	}
	return !slices.ContainsFunc(s.ToMXOf, func(domain string) bool { return !r.mxOf[domain] })
}

// wrote reports whether key was written for r. A rule that was made in Go rather
// than read from a file has no Keys; there, what differs from the default counts
// as written.
func wrote(r *Rule, key string) bool {
	if r.Keys != nil {
		return r.Keys[key]
	}
	switch key {
	case "tls":
		return r.TLS != Opportunistic
	case "verify":
		return r.Verify != VerifyNone
	case "names":
		return len(r.Names) > 0
	case "fingerprints":
		return len(r.Fingerprints) > 0
	case "ca":
		return r.CA != ""
	case "min_version":
		return r.MinVersion != 0
	case "forward_secrecy":
		return r.ForwardSecrecy
	case "ciphers":
		return len(r.Ciphers) > 0
	case "server_name":
		return r.ServerName != ""
	case "on_handshake_failure":
		return r.OnHandshakeFailure != Block
	case "client_certificate":
		return r.ClientCertificate != ""
	case "client_starttls":
		return r.ClientStartTLS != Mirror
	case "client_names":
		return len(r.ClientNames) > 0
	case "to_mx_of":
		return len(r.ToMXOf) > 0
	case "revocation":
		return r.Revocation != RevocationOff
	case "inspect":
		return r.Inspect != Terminate
	}
	return false
}

// Weaker gives the keys of r by which it promises less than the built-in rule
// does: an exception, for which an owner and a day of expiry are asked. It is
// empty for a rule that is none.
func (r *Rule) Weaker() []string {
	var keys []string
	if r.TLS == Off {
		keys = append(keys, "tls")
	}
	if r.OnHandshakeFailure == Cleartext {
		keys = append(keys, "on_handshake_failure")
	}
	if r.ClientStartTLS == Always {
		keys = append(keys, "client_starttls")
	}
	if r.Inspect == Watch {
		keys = append(keys, "inspect")
	}
	if !r.Auto && r.Keys["auto"] && r.Verify == VerifyNone {
		keys = append(keys, "auto")
	}
	return keys
}
