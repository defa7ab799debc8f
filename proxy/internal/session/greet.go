package session

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/proxy/internal/record"
	"postern/smtpwire"
)

// connect dials the upstream and passes its banner on as it is.
func (s *Session) connect() bool {
	if s.rec.Upstream.Address.IsValid() {
		s.choose(s.rec.Upstream.Address)
	}
	up, err := s.open()
	if err != nil {
		s.blame(enforce.UpstreamUnreachable, err.Error())
		s.end("upstream unreachable")
		if s.aborted.Load() {
			s.lastWord(s.shuttingDown())
		} else {
			s.lastWord(s.words(421, enforce.UpstreamUnreachable, enforce.Defer, "the server cannot be reached"))
		}
		return false
	}
	if !s.rec.Upstream.Address.IsValid() {
		s.choose(remote(up))
	}
	if v := s.judge(enforce.AtConnect, nil, false); s.speak(v) {
		s.refuseConnection(v)
		return false
	}
	banner, err := s.readBanner()
	if err != nil {
		s.lost(err)
		return false
	}
	s.rec.Upstream.Banner = record.Redact(string(banner.Text()), 200)
	s.name = hostname(banner.Text())
	switch {
	case banner.Code == 220:
		s.say(banner.Raw)
		return true
	case banner.Code == 421:
		s.end("upstream closed with 421")
		s.lastWord(banner.Raw)
	case banner.Code/100 >= 4:
		s.end("upstream refused the connection")
		s.farewell(banner.Raw)
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.breakOff("upstream greeted with " + strconv.Itoa(banner.Code))
	}
	return false
}

// choose settles where the session goes, and by that its connection rule.
func (s *Session) choose(upstream netip.AddrPort) {
	s.rec.Upstream.Address = upstream
	s.conn = enforce.Connection{Client: s.rec.Client.Address.Addr(), Upstream: upstream.Addr()}
	if s.snap.Partners != nil {
		s.conn.MXOf = s.snap.Partners.MXOf(s.conn.Upstream)
	}
	now := time.Now()
	s.rule = s.snap.Policy.ConnectionRule(s.conn, now)
	s.holdFor = s.snap.Policy.HoldsFor(s.conn)
	s.auto, s.smartHost = s.snap.Policy.Auto(s.conn), s.snap.Policy.Relay(s.conn)
	s.mayHold = s.snap.Holds != nil && s.snap.Policy.MayHold(s.conn, now)
	s.rec.Rule = s.rule.Name
	s.recollect()
}

func remote(c *leg.Conn) netip.AddrPort {
	a, err := netip.ParseAddrPort(c.Socket().RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// open makes a connection to the upstream the session's upstream leg.
func (s *Session) open() (*leg.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.snap.Timeouts.Connect)
	defer cancel()
	conn, err := s.dial(ctx, s.rec.Upstream.Address)
	if err != nil {
		return nil, err
	}
	up := leg.New(conn, s.snap.Timeouts.Command)
	s.setUpstream(up)
	return up, nil
}

// readBanner waits for the banner as long as for any reply: RFC 5321 §4.5.3.2.1
// gives a server five minutes, and some use them against spammers.
func (s *Session) readBanner() (smtpwire.Reply, error) {
	s.upstream.SetReplyDeadline(time.Now().Add(s.snap.Timeouts.Command))
	return s.upstream.ReadReply(s.snap.Limits.ReplyLines)
}

// hostname returns the name that a banner begins with, if it is fit to be one:
// at least two labels of letters, digits and hyphens, the last not a number.
func hostname(banner []byte) string {
	word, _, _ := strings.Cut(string(banner), " ")
	labels := strings.Split(strings.ToLower(word), ".")
	if len(labels) < 2 || len(word) > 253 || labels[len(labels)-1] == "" {
		return ""
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			l[0] == '-' || l[len(l)-1] == '-' {
			return ""
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return ""
	}
	return strings.ToLower(word)
}

// introduce answers what a client says before it has been greeted, until it has.
func (s *Session) introduce() bool {
	for !s.greeted {
		cmd, ok := s.next()
		if !ok {
			return false
		}
		switch cmd.Verb {
		case smtpwire.EHLO, smtpwire.HELO:
			ok = s.greet(cmd)
		case smtpwire.NOOP, smtpwire.RSET, smtpwire.HELP, smtpwire.QUIT:
			ok = s.relay(cmd)
		case smtpwire.Unknown:
			s.say([]byte(sayUnknown))
		case smtpwire.BDAT:
			ok = s.bdat(cmd)
		default:
			s.say([]byte(sayHelloFirst))
		}
		if !ok {
			return false
		}
	}
	s.resumePump()
	return true
}

// relay forwards a command and passes its reply on, before the pump runs.
func (s *Session) relay(cmd smtpwire.Command) bool {
	reply, ok := s.exchange(string(cmd.Line))
	if !ok {
		return false
	}
	if cmd.Verb == smtpwire.QUIT {
		s.end("quit")
		s.lastWord(reply.Raw)
		return false
	}
	return s.passOn(reply)
}

// passOn gives a reply of the upstream to the client; false when the upstream
// has closed with it.
func (s *Session) passOn(reply smtpwire.Reply) bool {
	s.say(reply.Raw)
	if reply.Code == 421 {
		s.end("upstream closed with 421")
		return false
	}
	return true
}

// exchange sends a line upstream and reads its reply: through the pump once that
// runs. When ok is false the session is over and the client has been told.
func (s *Session) exchange(line string) (reply smtpwire.Reply, ok bool) {
	if s.pumping {
		return s.ask([]byte(line), &expected{kind: ehlo})
	}
	if s.upstream.Buffered() > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.breakOff("upstream replied to nothing")
		return reply, false
	}
	s.toUpstream([]byte(line), crlf)
	s.flushBoth()
	reply, err := s.readBanner()
	if _, is := leg.RemoteAlert(err); is && s.confirming {
		s.disproof = err
		return reply, false
	}
	if err != nil {
		s.lost(err)
		return reply, false
	}
	if wrong := (&expected{kind: plain, sent: true}).outOfStep(reply); wrong != "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.breakOff(wrong)
		return reply, false
	}
	return reply, true
}

// greet deals with EHLO and HELO: the upstream is greeted under the same name
// and, the first time, secured before the client is answered. So a client that
// never heard of TLS is upgraded, a refusal can still be said in plain SMTP, and
// the client is told what the upstream offers inside TLS.
func (s *Session) greet(cmd smtpwire.Command) bool {
	name, err := smtpwire.HeloName(cmd.Arg)
	if err != nil {
		s.say([]byte(sayBadSyntax + err.Error() + "\r\n"))
		return true
	}
	if s.known(name) {
		s.answer(cmd.Verb)
		return true
	}
	if s.pumping && !s.settle() {
		return false
	}
	s.rec.Client.Helo = record.Redact(name, 200)
	if ok, went := s.hello(name); !ok {
		return went
	}
	if ok, went := s.settleUpstream(string(cmd.Verb)+" "+name, name); !ok {
		return went
	}
	s.begin(nil, true)
	s.sure()
	s.answer(cmd.Verb)
	return true
}

// known reports whether EHLO can be answered without asking: the upstream was
// greeted under that name, and no envelope is there for EHLO to reset.
func (s *Session) known(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pumping && name == s.helo && s.fresh && !s.uncertain && len(s.queue) == 0
}

// hello greets the upstream. When it does not like that, ok is false and the
// client has been told; went says whether the session goes on.
func (s *Session) hello(name string) (ok, went bool) {
	reply, went := s.exchange("EHLO " + name)
	if !went {
		return false, false
	}
	heloOnly := reply.Code/100 == 5
	if heloOnly { // RFC 5321 §3.2: a server without extensions
		if reply, went = s.exchange("HELO " + name); !went {
			return false, false
		}
	}
	if !reply.Positive() {
		return false, s.passOn(reply) // and all stays as it was
	}
	s.helo, s.heloOnly = name, heloOnly
	s.caps = smtpwire.ParseCapabilities(reply)
	if heloOnly {
		s.caps.List = nil
	}
	s.facts.RequireTLSOffered = s.facts.Upstream.State == enforce.StateOK && s.caps.Has("REQUIRETLS")
	return true, true
}

// settleUpstream brings the upstream leg, once, to the state it will have, and
// has it judged; owed is the line that the client waits for an answer to. When ok is
// false the client has been told why; went says whether
// the session goes on.
func (s *Session) settleUpstream(owed, name string) (ok, went bool) {
	if s.leavesTLS() {
		return true, true
	}
	if s.facts.Upstream.State == enforce.StateUnknown {
		if ok, went = s.tryTLS(name); !ok {
			return false, went
		}
	}
	stage := enforce.AfterUpstreamTLS
	if s.facts.Upstream.State == enforce.StateNone {
		stage = enforce.AfterEHLO
	}
	v := s.judge(stage, nil, false)
	s.legReason = v.Reason
	switch {
	case s.speak(v):
		s.refuseConnection(v)
		return false, false
	case s.facts.Upstream.State == enforce.StateFailed: // and observed
		s.passThrough(owed, nil)
		return false, false
	}
	return true, true
}

// tryTLS takes the upstream leg into TLS where it is offered and wanted, and
// falls back where that is allowed. What came of it is in s.facts; it returns as
// settleUpstream does.
func (s *Session) tryTLS(name string) (ok, went bool) {
	switch {
	case s.rule.TLS == enforce.Off:
		s.facts.Upstream = enforce.Leg{State: enforce.StateNone, Detail: "TLS is switched off for this destination"}
		return true, true
	case !s.caps.Has("STARTTLS"):
		s.facts.Upstream = enforce.Leg{State: enforce.StateNone, Failure: enforce.StartTLSNotOffered, Detail: "STARTTLS is not offered"}
		s.blameHand()
		return true, true
	}
	if ok, went = s.secure(name, enforce.Offer(s.rule)); !ok {
		return false, went
	}
	if enforce.MayWiden(s.rule, s.facts.Upstream) {
		if !s.redial(name) {
			return false, false
		}
		if ok, went = s.secure(name, enforce.Offered()); !ok {
			return false, went
		}
	}
	if enforce.MayFallBack(s.rule, s.facts.Upstream, s.snap.Policy.Floor()) {
		return s.fallBack(name), false
	}
	return true, true
}

// secure takes the upstream leg into TLS (RFC 3207), offering these TLS 1.2 suites
// beside those of TLS 1.3, and greets it again. What
// came of it is in s.facts; ok is false when the session cannot go on for
// another reason.
func (s *Session) secure(name string, offer []uint16) (ok, went bool) {
	reply, went := s.exchange("STARTTLS")
	if !went {
		return false, false
	}
	if reply.Code != 220 {
		s.facts.Upstream = enforce.Leg{State: enforce.StateFailed, Failure: enforce.StartTLSRefused,
			Detail: "STARTTLS was answered " + strconv.Itoa(reply.Code)}
		s.rec.UpstreamTLS.StrippedBy = "refused"
		return true, true
	}
	secure, h, err := s.upstream.StartClient(s.upstreamConfig(offer), s.snap.Timeouts.Handshake)
	s.upstreamFacts(h, err)
	if err != nil {
		return true, true
	}
	s.setUpstream(secure)
	s.confirming = true
	ok, went = s.hello(name)
	s.confirming = false
	if alert, is := leg.RemoteAlert(s.disproof); is {
		// RFC 8446 §4.4.2.4: the server's answer to our side of the handshake
		// comes behind it.
		h.Err, h.Alert = s.disproof, alert
		s.upstreamFacts(h, s.disproof)
		return true, true
	}
	return ok, went
}

func quote(said string) string { return record.Quote(said, 200) }
