package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"postern/proxy/proxytest"
)

// A sender is a kind of client there is out there: one address of the client
// host, and habits.
type sender struct {
	name     string // that it gives in EHLO
	about    string // for people
	address  netip.Addr
	helo     bool
	starttls proxytest.STARTTLS
	tls      *tls.Config
}

// A conversation is one session of a sender with a site, and what it has to come
// to.
type conversation struct {
	title string
	from  sender
	to    string // name of a site
	mail  func(token string) proxytest.Mail
	want  outcome
}

// An outcome is what the record of a session says of it, and what both ends saw.
type outcome struct {
	delivered        bool
	verdict          string
	reason           string // of the session, or of the recipient that was refused alone
	rule             string // of the session
	client, upstream string // legs: "none", "TLS 1.3", "failed TLS 1.0"
	verified         bool   // the upstream's certificate
	// refusals are the beginnings of all 4xx and 5xx replies that the sender saw.
	refusals []string
	// cut says that the sender's session ends without a reply: a TLS alert.
	cut bool
	// observed says that verdicts are not spoken.
	observed bool
}

// A result is how a conversation went.
type result struct {
	conversation
	token    string
	content  []byte
	report   proxytest.Report
	record   record
	arrivals []arrival
	faults   []string // what went otherwise than wanted
}

// patience bounds each wait of a client: longer than anything that Postern waits
// for in the lab.
const patience = 30 * time.Second

// hold holds the conversation and judges it. The error, without a result, is that
// it could not be held, or that Postern wrote no record of it.
func (c conversation) hold(ctx context.Context, l *lab, d *daemon) (*result, error) {
	r := &result{conversation: c, token: newToken()}
	mail := c.mail(r.token)
	mail.From = r.sender()
	r.content = mail.Content
	conn, err := l.dial(ctx, c.from.address, c.to)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.title, err)
	}
	client := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	r.report = proxytest.Deliver(conn, proxytest.Delivery{
		Name: c.from.name, HELO: c.from.helo, STARTTLS: c.from.starttls, TLS: c.from.tls,
		Mails: []proxytest.Mail{mail}, Timeout: patience,
	})
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r.record, err = d.record(ctx, netip.AddrPortFrom(client.Addr().Unmap(), client.Port())); err != nil {
		return nil, fmt.Errorf("%s: %w", c.title, err)
	}
	r.arrivals = l.messages(r.sender())
	r.judge(l)
	return r, nil
}

// sender is the envelope sender; the token in it tells messages apart.
func (r *result) sender() string { return r.token + "@hospital.example" }

func (r *result) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// expect notes a fault unless what was found is what was wanted.
func (r *result) expect(what, found, wanted string) {
	if found != wanted {
		r.fault("%s: found %q, expected %q", what, found, wanted)
	}
}

func (r *result) judge(l *lab) {
	r.judgeRecord(l)
	r.judgeSender()
	r.judgeArrival()
}

// judgeRecord holds the record against what is wanted, and against what is known
// from elsewhere.
func (r *result) judgeRecord(l *lab) {
	rec, want := r.record, r.want
	mode := "enforce"
	if want.observed {
		mode = "observe"
	}
	reason := rec.Reason
	if reason == "" {
		_, reason, _ = rec.refusedRecipient()
	}
	r.expect("record: mode", rec.Mode, mode)
	r.expect("record: verdict", rec.Verdict, want.verdict)
	r.expect("record: reason", reason, want.reason)
	r.expect("record: rule", rec.Rule, want.rule)
	r.expect("record: client leg", rec.ClientTLS.short(), want.client)
	r.expect("record: upstream leg", rec.UpstreamTLS.short(), want.upstream)
	r.expect("record: upstream certificate verified", fmt.Sprint(rec.UpstreamTLS.Verified), fmt.Sprint(want.verified))
	r.expect("record: interface", rec.Interface, "lan0")
	r.expect("record: upstream", rec.Upstream.addrPort().String(),
		netip.AddrPortFrom(l.sites[r.to].address, smtpPort).String())
	if strings.Contains(rec.raw, r.token) {
		r.fault("the record holds the local part of an address, or content")
	}
}

// short is a leg's state and version.
func (l leg) short() string {
	if l.State == "ok" {
		return l.Version
	}
	return strings.TrimSpace(l.State + " " + l.Version)
}

// judgeSender holds what the sender saw against what is wanted.
func (r *result) judgeSender() {
	refusals := r.refusals()
	for i := range max(len(refusals), len(r.want.refusals)) {
		switch {
		case i >= len(refusals):
			r.fault("the sender saw no reply %q", r.want.refusals[i])
		case i >= len(r.want.refusals):
			r.fault("the sender saw %q", refusals[i])
		case !strings.HasPrefix(refusals[i], r.want.refusals[i]):
			r.fault("the sender saw %q, expected %q", refusals[i], r.want.refusals[i])
		}
	}
	if r.want.cut != (r.report.Err != nil && len(refusals) == 0) {
		r.fault("the sender's session ended with: %v", r.report.Err)
	}
	accepted := len(r.report.Outcomes) > 0 && r.report.Outcomes[0].Accepted()
	if accepted != r.want.delivered {
		r.fault("the sender was told that the message is accepted: %v", accepted)
	}
	r.judgeLeg("client leg", r.record.ClientTLS, r.report.TLS)
}

// refusals are the 4xx and 5xx replies that the sender saw, line by line.
func (r *result) refusals() []string {
	var all []string
	for _, line := range r.report.Transcript {
		if line.From == 'S' && (strings.HasPrefix(line.Text, "4") || strings.HasPrefix(line.Text, "5")) {
			all = append(all, line.Text)
		}
	}
	return all
}

// judgeLeg holds a leg of the record against what the peer on that leg says of
// it. What was passed through end to end is nobody's leg.
func (r *result) judgeLeg(which string, rec leg, state *tls.ConnectionState) {
	if r.record.End == "passed through" || rec.State == "failed" {
		return
	}
	if state == nil {
		r.expect(which+" as the peer saw it", "none", rec.State)
		return
	}
	r.expect(which+" as the peer saw it", tls.VersionName(state.Version)+" "+tls.CipherSuiteName(state.CipherSuite),
		rec.Version+" "+rec.Cipher)
}

// judgeArrival holds what the servers have against what was sent.
func (r *result) judgeArrival() {
	if !r.want.delivered {
		if len(r.arrivals) > 0 {
			r.fault("the message reached %s", r.arrivals[0].site)
		}
		return
	}
	if len(r.arrivals) != 1 {
		r.fault("the message arrived %d times", len(r.arrivals))
		return
	}
	got := r.arrivals[0]
	r.expect("the message reached", got.site, r.to)
	r.expect("SHA-256 of the message", fmt.Sprintf("%x", got.message.SHA256), fmt.Sprintf("%x", sha256.Sum256(r.content)))
	if from, err := netip.ParseAddrPort(got.session.Remote.String()); err != nil || from.Addr().Unmap() != r.from.address {
		r.fault("the server saw the client as %s, expected %s", got.session.Remote, r.from.address)
	}
	for _, violation := range got.session.Violations {
		r.fault("the server complains: %s", violation)
	}
	r.judgeLeg("upstream leg", r.record.UpstreamTLS, got.session.TLS)
}
