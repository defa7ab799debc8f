package session

import (
	"crypto/tls"
	"errors"
	"strings"
	"time"

	"postern/enforce"
	"postern/smtpwire"
)

// judge asks for a verdict on the session as it stands and enters it in the
// record. The verdict is to be spoken only if it is refused and not observed:
// see speak.
func (s *Session) judge(stage enforce.Stage, envelope *enforce.Rule, requireTLS bool) enforce.Verdict {
	if stage == enforce.AtMail { // each RCPT goes by what was known then
		s.recall()
	}
	s.recollectDomain("") // what is remembered of a recipient's domain is the recipient's
	v := s.decide(stage, envelope, requireTLS)
	s.relearn(v)
	s.pronounce(stage, v)
	return v
}

// pronounce enters a verdict in the record.
func (s *Session) pronounce(stage enforce.Stage, v enforce.Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stage = stage
	s.enter(stage, v)
}

// decide asks for a verdict and leaves it at that.
func (s *Session) decide(stage enforce.Stage, envelope *enforce.Rule, requireTLS bool) enforce.Verdict {
	return enforce.Decide(enforce.Question{
		Stage:      stage,
		Connection: s.conn,
		Floor:      s.snap.Policy.Floor(),
		Rule:       s.rule,
		Envelope:   envelope,
		Facts:      s.facts,
		RequireTLS: requireTLS,
		HoldFor:    s.holdFor,
		Auto:       s.auto,

		LogDowngrade: s.snap.Policy.LogDowngrade(),
	})
}

// enter puts a verdict into the record: the first refusal stays, and before it
// the first failure that was only logged. s.mu is held.
func (s *Session) enter(stage enforce.Stage, v enforce.Verdict) {
	const most = 32
	for _, f := range v.Failures {
		if len(s.rec.Failures) < most && !known(s.rec.Failures, f) {
			s.rec.Failures = append(s.rec.Failures, f)
		}
	}
	if s.rec.Verdict != enforce.Allow || v.Reason == "" || !v.Refused() && s.rec.Reason != "" {
		return
	}
	s.rec.Verdict, s.rec.Reason, s.rec.Stage = v.Action, v.Reason, stage
	s.rec.Detail = quote(v.Detail)
}

func known(failures []enforce.Failure, f enforce.Failure) bool {
	for _, have := range failures {
		if have.Reason == f.Reason && have.Rule == f.Rule {
			return true
		}
	}
	return false
}

// speak reports whether a verdict is to be acted on.
func (s *Session) speak(v enforce.Verdict) bool { return v.Refused() && !s.snap.Observe }

// blame enters a failure that is no rule's: the wire, a limit, the upstream gone.
func (s *Session) blame(reason enforce.Reason, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blameLocked(reason, detail)
}

func (s *Session) blameLocked(reason enforce.Reason, detail string) {
	s.enter(s.stage, fault(enforce.Defer, reason, detail))
}

// fault is the verdict on what no rule has a say in: the wire, a limit, a peer
// that is gone.
func fault(a enforce.Action, reason enforce.Reason, detail string) enforce.Verdict {
	f := enforce.Failure{Reason: reason, Detail: detail}
	return enforce.Verdict{Action: a, Failure: f, Failures: []enforce.Failure{f}}
}

// refuseConnection speaks a refusal of the whole connection in answer to EHLO:
// 421 and closed, so that the sender goes on to the next host; or 554, to this
// and everything but QUIT, until the client has quit. A sender that sees the
// connection close upon a 5yz tries again for days.
func (s *Session) refuseConnection(v enforce.Verdict) {
	s.end("refused")
	if v.Action != enforce.Reject {
		s.lastWord(s.words(421, v.Reason, v.Action, v.Detail))
		return
	}
	s.farewell(s.words(554, v.Reason, v.Action, v.Detail))
}

// lastWord says reply, whatever the client was still owed, and nothing more.
func (s *Session) lastWord(reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.toClient(reply)
	s.flushClient(true)
	s.told = true
}

// farewellTime is how long a client that was refused for good may take to quit.
const farewellTime = 30 * time.Second

// farewell answers everything but QUIT with reply, for a while; the first time
// at once.
func (s *Session) farewell(reply []byte) {
	s.closeUpstream()
	deadline := time.Now().Add(farewellTime)
	for {
		s.say(reply)
		s.flushBoth()
		line, err := s.client.ReadCommand(s.snap.Limits.Line, time.Until(deadline))
		if err != nil && !errors.Is(err, smtpwire.ErrLineTooLong) && !errors.Is(err, smtpwire.ErrBareNewline) || smtpwire.Foreign(line) {
			return
		}
		if cmd, err := smtpwire.ParseCommand(line); err == nil && cmd.Verb == smtpwire.QUIT {
			s.lastWord([]byte(sayBye))
			return
		}
	}
}

// outcome words policy and outcome of the upstream leg in the manner of Postfix:
// "may:TLSv1.3", "encrypt!nostarttls". The reason is that of the verdict on the
// leg, "" when it was allowed.
func outcome(r *enforce.Rule, up enforce.Leg, reason enforce.Reason) string {
	if r == nil {
		return ""
	}
	level := "may"
	switch {
	case r.TLS == enforce.Off:
		level = "none"
	case r.TLS == enforce.Forced:
		level = [...]string{"encrypt", "verify", "secure", "fingerprint", "dane-only", "mta-sts"}[min(r.Verify, enforce.VerifyMTASTS)]
	}
	switch {
	case up.State == enforce.StateUnknown:
		return level
	case up.State == enforce.StateNone && r.TLS != enforce.Forced:
		return level + ":none"
	case (up.State == enforce.StateOK || up.State == enforce.StateWatched) && (reason == "" || !strings.HasPrefix(string(reason), "tls-") && !strings.HasPrefix(string(reason), "cert-")):
		return level + ":" + strings.ReplaceAll(tls.VersionName(up.Version), "TLS ", "TLSv")
	}
	switch reason {
	case enforce.StartTLSNotOffered, enforce.StartTLSRefused, enforce.StartTLSStripped:
		return level + "!nostarttls"
	case enforce.TLSVersionTooLow:
		return level + "!version"
	case enforce.TLSCipherNotAllowed, enforce.TLSNoForwardSecrecy:
		return level + "!cipher"
	case enforce.CertNotTrusted, enforce.CertExpired, enforce.CertNameMismatch, enforce.CertFingerprintMismatch,
		enforce.CertRevoked, enforce.CertMissingRevocation:
		return level + "!cert"
	}
	return level + "!handshake"
}
