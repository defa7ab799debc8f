package session

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/proxy/internal/record"
	"postern/smtpwire"
)

// A host with many tenants chooses its certificate by SNI, which goes out before
// any recipient is known. Where a recipient's demand fails on the certificate that
// was shown for another name, the upstream is connected to once more under the
// name that is required. The new connection takes the place of the old one only if
// the demand holds with it and nothing that the client was told becomes untrue.

// A replacement is an upstream leg that could take the place of the present one:
// in TLS, greeted, and with the same MAIL.
type replacement struct {
	conn  *leg.Conn
	until time.Time // when it has to stand
	facts enforce.Leg
	shown []*x509.Certificate
	rec   record.Leg
	caps  smtpwire.Capabilities
}

// retry judges a recipient that was refused by v once more, with an upstream leg
// made under the name that its domain requires, where that may help. What it
// returns is the verdict to go by.
func (s *Session) retry(v enforce.Verdict, tx *transaction, q recipientQuestion) enforce.Verdict {
	name := s.requiredName(v, q)
	if name == "" || !s.settle() || !s.bare(tx) {
		return v
	}
	s.partner.replaced = true
	next, err := s.connectAs(name, tx)
	if next != nil {
		defer s.letSpareGo(next)
	}
	if err != nil || !s.keepsPromises(next) {
		v.Action = enforce.Defer // what was promised under one name may hold under another next time
		return v
	}
	old := s.present()
	s.assume(next)
	leg, again := s.decide(enforce.AfterUpstreamTLS, nil, false), enforce.Verdict{}
	if !leg.Refused() {
		s.consult(q.recipient, q.rule, tx.requireTLS)
		again = s.decide(enforce.AtRcpt, q.rule, tx.requireTLS)
	}
	if leg.Refused() || again.Refused() || !s.exchangeLegs(next) {
		s.assume(old)
		s.consult(q.recipient, q.rule, tx.requireTLS)
		return v
	}
	s.rec.UpstreamTLS.Replaced = &old.rec // messages may have gone over it
	s.legReason = leg.Reason
	return again
}

// A recipientQuestion is a recipient and what is asked about it.
type recipientQuestion struct {
	recipient enforce.Address
	rule      *enforce.Rule // of the envelope, may be nil
	hosts     []string      // that its domain would have its mail given to
}

// byName are the reasons that another name could mend.
var byName = []enforce.Reason{enforce.CertNameMismatch, enforce.CertNotTrusted, enforce.CertExpired,
	enforce.CertFingerprintMismatch, enforce.DANEMismatch, enforce.MTASTSCert}

// requiredName is the name to connect under instead, "" where there is none, or
// the client was shown a certificate named as the one that would go.
func (s *Session) requiredName(v enforce.Verdict, q recipientQuestion) string {
	up := s.facts.Upstream
	if s.partner.replaced || s.snap.Partners == nil || s.rule.ServerName != "" || s.minted || s.authenticated ||
		up.State != enforce.StateOK || !slices.Contains(byName, v.Reason) {
		return ""
	}
	hosts := q.hosts
	if len(hosts) == 0 && q.recipient.Domain != "" {
		ctx, done := s.patience()
		hosts = s.snap.Partners.Hosts(ctx, q.recipient.Domain, s.conn.Upstream)
		done()
	}
	sent := s.rec.UpstreamTLS.SNI
	if len(hosts) == 0 || slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, sent) }) {
		return ""
	}
	return hosts[0]
}

// bare reports whether nothing is open upstream but a MAIL that was accepted and
// has no recipient.
func (s *Session) bare(tx *transaction) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx == tx && tx.answered && !tx.refused && tx.live == 0 && !tx.chunked && !s.uncertain
}

var errNotTheSame = errors.New("the server treated a second connection differently")

// connectAs connects to the upstream again under a name, and brings the new
// connection to where the present one is. The replacement is to be let go whatever
// comes with it.
func (s *Session) connectAs(name string, tx *transaction) (*replacement, error) {
	// The client waits for one reply meanwhile, and is not to be kept for long.
	until := time.Now().Add(s.snap.Timeouts.Connect)
	ctx, cancel := context.WithDeadline(s.ctx, until)
	defer cancel()
	conn, err := s.dial(ctx, s.rec.Upstream.Address)
	if err != nil {
		return nil, err
	}
	next := &replacement{conn: leg.New(conn, s.snap.Timeouts.Command), until: until}
	s.setSpare(next.conn)
	if reply, err := s.hear(next); err != nil || reply.Code != 220 {
		return next, errors.Join(err, errNotTheSame)
	}
	if err := s.expectCode(next, "EHLO "+s.helo, 250); err != nil {
		return next, err
	}
	if !next.caps.Has("STARTTLS") {
		return next, errNotTheSame
	}
	if err := s.expectCode(next, "STARTTLS", 220); err != nil {
		return next, err
	}
	secure, h, err := next.conn.StartClient(s.offering(enforce.Offer(s.rule), name), min(s.snap.Timeouts.Handshake, time.Until(until)))
	next.rec.SNI = name
	next.facts, next.shown = s.upstreamLeg(&next.rec, h, err)
	if err != nil {
		return next, err
	}
	next.conn = secure
	s.setSpare(secure)
	if err := s.expectCode(next, "EHLO "+s.helo, 250); err != nil {
		return next, err
	}
	return next, s.expectCode(next, string(tx.line), 250)
}

// expectCode says one line and hears its reply, which must have that code. Of an
// EHLO the capabilities are kept.
func (s *Session) expectCode(next *replacement, line string, code int) error {
	if next.conn.Buffered() > 0 {
		return errNotTheSame
	}
	if err := next.conn.Write([]byte(line + "\r\n")); err != nil {
		return err
	}
	reply, err := s.hear(next)
	switch {
	case err != nil:
		return err
	case reply.Code != code:
		return errors.Join(errNotTheSame, errors.New("replied "+strconv.Itoa(reply.Code)))
	case strings.HasPrefix(line, "EHLO "):
		next.caps = smtpwire.ParseCapabilities(reply)
	}
	return nil
}

func (s *Session) hear(next *replacement) (smtpwire.Reply, error) {
	if err := next.conn.Flush(); err != nil {
		return smtpwire.Reply{}, err
	}
	next.conn.SetReplyDeadline(next.until)
	return next.conn.ReadReply(s.snap.Limits.ReplyLines)
}

// keepsPromises reports whether all that the client was offered is offered by the
// replacement.
func (s *Session) keepsPromises(next *replacement) bool {
	for _, had := range s.offered().List {
		i := slices.IndexFunc(next.caps.List, func(c smtpwire.Capability) bool { return c.Keyword == had.Keyword })
		if i < 0 || !next.caps.List[i].Covers(had) {
			return false
		}
	}
	return true
}

// present is the upstream leg as it is, to be assumed again.
func (s *Session) present() *replacement {
	return &replacement{facts: s.facts.Upstream, shown: s.shown, rec: s.rec.UpstreamTLS, caps: s.caps}
}

// assume has the session judged by another upstream leg.
func (s *Session) assume(r *replacement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts.Upstream, s.shown, s.rec.UpstreamTLS, s.caps = r.facts, r.shown, r.rec, r.caps
	s.facts.RequireTLSOffered = s.caps.Has("REQUIRETLS")
	s.partner.known, s.partner.proven = nil, nil
}

// exchangeLegs puts the replacement in the place of the upstream leg.
func (s *Session) exchangeLegs(next *replacement) bool {
	if !s.haltPump() {
		return false
	}
	old := s.upstream
	s.setUpstream(next.conn)
	s.resumePump()
	if old.Write([]byte("QUIT\r\n")) == nil {
		old.Flush()
	}
	old.Close()
	return true
}

// setSpare has an Abort reach a connection that is not the upstream leg yet.
func (s *Session) setSpare(c *leg.Conn) {
	s.ctl.Lock()
	defer s.ctl.Unlock()
	s.spare = c
	if s.aborted.Load() {
		c.Abort()
	}
}

// letSpareGo closes a replacement that did not take the place of the upstream leg.
func (s *Session) letSpareGo(r *replacement) {
	s.ctl.Lock()
	s.spare = nil
	taken := s.upstream == r.conn
	s.ctl.Unlock()
	if !taken {
		r.conn.Close()
	}
}
