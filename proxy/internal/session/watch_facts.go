package session

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/smtpwire/tlshello"
)

// A watching is the TLS between client and upstream that passes through.
type watching struct {
	*Session
	gate  *gate
	hello *tlshello.ClientHello // nil: none came
	cut   enforce.Failure       // of the verdict that ended it; zero: none did

	ends    sync.Mutex // guards what follows
	first   string     // which side ended first, and how
	late    bool       // that was for want of time
	inClear bool       // a side said something in clear behind its handshake
}

// watch passes the TLS of the two peers through, judges it as soon as they have
// agreed, and enters what came of it.
func (s *Session) watch() {
	w := &watching{Session: s, gate: newGate()}
	g, p := w.gate, &pipe{idle: s.snap.Timeouts.Final, aborted: &s.aborted}
	p.touch()
	if g.onlyWatch = s.snap.Observe; !g.onlyWatch {
		p.settleBy(time.Now().Add(s.snap.Timeouts.Handshake))
	}
	g.offered = w.judgeOffer
	g.chosen = func(h *tlshello.ServerHello) error {
		defer p.settled()
		return w.judgeChoice(h)
	}
	client, upstream := s.client.Socket(), s.upstream.Socket()
	var both sync.WaitGroup
	direction := func(ended chan struct{}, pass func()) {
		both.Go(func() {
			returned := false
			defer close(ended)
			defer func() {
				if !returned { // it crashed
					client.Close()
					upstream.Close()
				}
			}()
			defer s.crashed()
			pass()
			returned = true
		})
	}
	direction(g.clientEnded, func() {
		n, err := p.pass(upstream, client, s.client.Rest(), g.fromClient)
		s.rec.In = n
		w.ended("client", "upstream", err)
	})
	direction(g.serverEnded, func() {
		if !g.mayListen() {
			return
		}
		n, err := p.pass(client, upstream, s.upstream.Rest(), g.fromServer)
		s.rec.Out = n
		w.ended("upstream", "client", err)
		if !g.onlyWatch && !g.server.open { // however it ended, the client has nothing to wait for
			client.Close()
			upstream.Close()
		}
	})
	both.Wait()
	w.conclude()
}

// judgeOffer judges what the client offers: one whose best is below the floor is
// not let go on.
func (w *watching) judgeOffer(h *tlshello.ClientHello) error {
	w.hello = h
	rec, floor := &w.rec.ClientTLS, w.snap.Policy.Floor()
	rec.SNI, rec.OfferedVersions, rec.OfferedCiphers = quote(h.ServerName), h.Versions(), h.CipherSuites
	w.rec.UpstreamTLS.SNI = rec.SNI
	client := enforce.Leg{State: enforce.StateFailed}
	switch best := slices.Max(h.Versions()); {
	case best < floor:
		client.Failure, client.Detail = enforce.ClientTLSTooLow, fmt.Sprintf("%s is below %s", tlshello.VersionName(best), tlshello.VersionName(floor))
	case h.SSLv2: // RFC 6176 §3
		client.Failure, client.Detail = enforce.ClientHandshakeFailed, "the TLS handshake failed: the client sent an SSL 2.0 hello"
	default:
		return nil
	}
	w.facts.Client = client
	w.learn()
	v := fault(enforce.Defer, client.Failure, client.Detail)
	w.pronounce(enforce.AfterClientTLS, v)
	return w.act(v)
}

// judgeChoice judges what the two have agreed on.
func (w *watching) judgeChoice(h *tlshello.ServerHello) error {
	agreed := enforce.Leg{State: enforce.StateWatched, Version: h.Version, Cipher: h.CipherSuite, Group: h.Group}
	if w.hello != nil && h.Version < tlshello.VersionTLS13 {
		agreed.Resumed = len(h.SessionID) > 0 && bytes.Equal(h.SessionID, w.hello.SessionID)
	}
	w.facts.Upstream, w.facts.Client = agreed, agreed
	v := w.judge(enforce.AfterUpstreamTLS, nil, false)
	w.legReason = v.Reason
	return w.act(v)
}

var errRefused = errors.New("refused")

// act cuts where a verdict is to be acted on.
func (w *watching) act(v enforce.Verdict) error {
	if !w.speak(v) {
		return nil
	}
	w.cut = v.Failure
	return errRefused
}

// ended notes which side came to its end first: from was read, to was written to.
func (w *watching) ended(from, to string, err error) {
	how := leg.EndingOf(err)
	if how == leg.Aborted || errors.Is(err, errOtherEnd) {
		return // by us, because the other had
	}
	who := from
	if errors.Is(err, errNotTaken) {
		who = to
	}
	w.ends.Lock()
	defer w.ends.Unlock()
	w.inClear = w.inClear || errors.Is(err, errInClear)
	if w.first == "" {
		w.first, w.late = who+" "+string(how), how == leg.Timeout
	}
}

// conclude enters what came of the TLS, when it is over.
func (w *watching) conclude() {
	how := w.first
	reason, detail, client := w.failure()
	cut := w.cut.Reason != ""
	if cut {
		reason, detail, client = w.cut.Reason, w.cut.Detail, w.hello == nil || w.facts.Client.State == enforce.StateFailed
	}
	w.enterBoth(reason, detail, client)
	switch {
	case cut:
		how = "cut"
	case w.aborted.Load():
		how = "stopped"
	case w.inClear:
		how = "cut"
		w.pronounce(enforce.AfterUpstreamTLS, fault(enforce.Defer, enforce.ProtocolError, errInClear.Error()))
	case reason != "":
		how = "upstream handshake failed"
		if client {
			how = "client handshake failed"
		}
		w.pronounce(enforce.AfterClientTLS, fault(enforce.Defer, reason, detail))
	case w.facts.Client.Version >= w.snap.Policy.Floor():
		w.learn()
	}
	w.end(how)
}

// enterBoth puts the facts of both legs, which are one TLS, into the record.
func (w *watching) enterBoth(reason enforce.Reason, detail string, client bool) {
	c, s := &w.gate.client.observer, &w.gate.server.observer
	agreed := enforce.Leg{State: enforce.StateWatched, Resumed: w.facts.Upstream.Resumed}
	if h := s.ServerHello(); h != nil {
		agreed.Version, agreed.Cipher, agreed.Group = h.Version, h.CipherSuite, h.Group
	}
	up, down := agreed, agreed
	var failed error
	if reason != "" {
		failed = errors.New(detail)
		up.State, up.Failure, up.Detail = enforce.StateFailed, enforce.TLSHandshakeFailed, detail
		down.State, down.Failure, down.Detail = enforce.StateFailed, enforce.ClientHandshakeFailed, detail
		if client {
			down.Failure = reason
		} else {
			up.Failure = reason
		}
	}
	w.certificate(&up, &w.rec.UpstreamTLS, evidence{chain: parse(s.Certificates()), usage: x509.ExtKeyUsageServerAuth}, w.rule.CA)
	w.certificate(&down, &w.rec.ClientTLS, evidence{chain: parse(c.Certificates()), usage: x509.ExtKeyUsageClientAuth}, "")
	enter(&w.rec.ClientTLS, down, failed)
	if w.gate.wasAsked() {
		enter(&w.rec.UpstreamTLS, up, failed)
		w.rec.UpstreamTLS.ForwardSecrecy = up.State == enforce.StateWatched && up.HasForwardSecrecy()
	} else {
		up = enforce.Leg{}
	}
	w.facts.Upstream, w.facts.Client = up, down
	if w.legReason == "" {
		w.legReason = up.Failure
	}
}

// failure says why the handshake failed, as far as that can be seen, and whether it
// was the client that failed it; "" where it did not.
func (w *watching) failure() (reason enforce.Reason, detail string, client bool) {
	const failed = "the TLS handshake failed: "
	c, s := &w.gate.client.observer, &w.gate.server.observer
	answer := s.ServerHello()
	byClient, byServer := fatal(c), fatal(s)
	switch {
	case w.complete():
		if first := w.gate.client.records.first; answer.Version >= tlshello.VersionTLS13 && first < leastFinished && !w.hello.EarlyData {
			return enforce.ClientHandshakeFailed, failed + "the client sent an alert, encrypted", true
		}
		return "", "", false
	case byClient != nil && refusesCertificate(byClient.Description):
		return enforce.ClientRefusedCertificate, failed + "the client sent the alert " + tlshello.AlertName(byClient.Description), true
	case byClient != nil:
		return enforce.ClientHandshakeFailed, failed + "the client sent the alert " + tlshello.AlertName(byClient.Description), true
	case byServer != nil:
		return enforce.TLSHandshakeFailed, failed + "the server sent the alert " + tlshello.AlertName(byServer.Description), false
	case w.hello == nil && errors.Is(c.Err(), tlshello.ErrNotTLS):
		return enforce.StartTLSInjection, errNoTLS.Error(), true
	case w.hello == nil && c.Err() != nil:
		return enforce.ClientHandshakeFailed, failed + c.Err().Error(), true
	case w.hello != nil && (answer == nil || !answer.Final) && s.Err() != nil:
		return enforce.TLSHandshakeFailed, failed + errNotTLS.Error(), false
	case w.hello != nil && strings.HasPrefix(w.first, "upstream"):
		return enforce.TLSHandshakeFailed, failed + w.howItEnded("the server"), false
	}
	return enforce.ClientHandshakeFailed, failed + w.howItEnded("the client"), true
}

// leastFinished is how long a TLS 1.3 record with the client's Finished is at the
// least (RFC 8446 §4.4.4 and §5.2): with SHA-256, a type and a tag of 8 octets. One
// that answers the server's handshake and is shorter is an alert.
const leastFinished = 4 + 32 + 1 + 8

// complete reports whether both sides were seen to turn to encryption. From TLS 1.3
// on the client's last word could be an alert as well.
func (w *watching) complete() bool {
	c, s := &w.gate.client, &w.gate.server.observer
	answer := s.ServerHello()
	return w.hello != nil && answer != nil && answer.Final && c.observer.Encrypted() && s.Encrypted() &&
		(answer.Version < tlshello.VersionTLS13 || c.records.first > 0)
}

func (w *watching) howItEnded(who string) string {
	if w.late {
		return "timeout"
	}
	return who + " closed the connection"
}

// fatal gives the fatal alert of a side, if it sent one in clear.
func fatal(o *tlshello.Observer) *tlshello.Alert {
	for _, a := range o.Alerts() {
		if a.Fatal() {
			return &a
		}
	}
	return nil
}
