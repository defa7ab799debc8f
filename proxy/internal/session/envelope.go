package session

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"postern/enforce"
	"postern/proxy/internal/record"
	"postern/smtpwire"
)

// A transaction is one MAIL that was sent upstream and what followed it. Its
// fields are guarded by replies.mu, since the replies are what moves it.
type transaction struct {
	sender enforce.Address
	line   []byte // the MAIL, as it went up
	// requireTLS: the sender asked for REQUIRETLS (RFC 8689).
	requireTLS bool
	answered   bool // the upstream has replied to MAIL
	refused    bool // and refused it
	rcpts      int  // RCPTs, whatever became of them
	live       int  // recipients sent upstream that were accepted or not yet answered
	chunked    bool // BDAT has begun
	behind     bool // its MAIL went up while it was open whether the envelope before it was gone
	rec        *record.Transaction
}

// refuse notes that the upstream refused the sender.
func (t *transaction) refuse(reply smtpwire.Reply) {
	t.refused = true
	t.rec.Refuse(record.Refused{Domain: t.rec.MailDomain, Reply: codes(reply)})
}

// recipient notes the reply to one RCPT.
func (t *transaction) recipient(domain string, reply smtpwire.Reply) {
	if reply.Positive() {
		t.rec.Accept(domain)
		return
	}
	t.live--
	t.rec.Refuse(record.Refused{Domain: domain, Reply: codes(reply)})
}

// finished notes the reply to the end of a message, or to a chunk of it.
func (t *transaction) finished(e *expected, reply smtpwire.Reply) {
	if e.last || !reply.Positive() {
		t.rec.Reply = record.Redact(strconv.Itoa(reply.Code)+" "+string(reply.Text()), 200)
	}
}

// codes are the reply code and, where it has one, the enhanced code of a reply:
// all of its text that cannot hold an address.
func codes(reply smtpwire.Reply) string {
	code := strconv.Itoa(reply.Code)
	word, _, _ := strings.Cut(string(reply.Text()), " ")
	if strings.Trim(word, "0123456789") == ".." && len(word) <= 9 {
		return code + " " + word
	}
	return code
}

// current returns the transaction that is open or being opened upstream, if any.
func (s *Session) current() *transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tx != nil && s.tx.refused {
		s.tx = nil
	}
	return s.tx
}

// begin makes tx the transaction that what follows belongs to; nil ends the one
// there is. fresh says that the upstream is as it was after its greeting.
func (s *Session) begin(tx *transaction, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx, s.fresh = tx, fresh
}

// sure notes that the upstream has been reset, and said so.
func (s *Session) sure() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uncertain = false
}

// unsure reports whether it takes the upstream's replies to know what envelope
// it has: one of them is still to say whether a sender was accepted, or has left
// open whether the last envelope is gone.
func (s *Session) unsure() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uncertain || s.tx != nil && !s.tx.answered
}

// mail deals with MAIL. The envelope that rules judge is the one the upstream
// has: a MAIL is sent only when it will open a transaction there.
func (s *Session) mail(cmd smtpwire.Command) {
	if !s.greeted {
		s.say([]byte(sayHelloFirst))
		return
	}
	if s.unsure() && !s.settle() {
		return
	}
	if s.current() != nil {
		s.say([]byte(sayNestedMail))
		return
	}
	path, params, err := smtpwire.ParseMail(cmd.Arg)
	if err != nil {
		s.say([]byte(sayBadPath + err.Error() + "\r\n"))
		return
	}
	sender, shown, err := address(path)
	if err != nil {
		s.say([]byte(sayBadPath + err.Error() + "\r\n"))
		return
	}
	requireTLS, ok := s.params(params)
	if !ok {
		return
	}
	s.partner.spent = 0
	rule := s.snap.Policy.EnvelopeRule(s.conn, &sender, nil, time.Now())
	v := s.judge(enforce.AtMail, rule, requireTLS)
	s.mu.Lock()
	rec := s.rec.Begin(shown)
	if s.speak(v) {
		rec.Refuse(record.Refused{Domain: shown, Rule: v.Rule, Reason: v.Reason})
	}
	s.mu.Unlock()
	if s.speak(v) {
		s.say(s.refusal(v.Reason.Codes(v.Action), v.Reason, v.Detail))
		return
	}
	tx := &transaction{sender: sender, line: slices.Clone(cmd.Line), requireTLS: requireTLS, rec: rec}
	tx.behind = s.owing()
	s.begin(tx, false)
	s.forward(cmd.Line, &expected{kind: mail, tx: tx})
}

// params refuses what belongs to an extension that is not offered, and finds
// REQUIRETLS, on which there is a verdict of its own (RFC 8689).
func (s *Session) params(params []smtpwire.Param) (requireTLS, ok bool) {
	if len(params) == 0 {
		return false, true
	}
	offered := s.offered()
	for _, p := range params {
		if p.Keyword == "REQUIRETLS" {
			requireTLS = true
		} else if !offered.ParamOf(p.Keyword) {
			s.say(s.notOffered(p.Keyword))
			return false, false
		}
	}
	return requireTLS, true
}

// rcpt deals with RCPT. A recipient whose rule does not hold is refused alone.
func (s *Session) rcpt(cmd smtpwire.Command) {
	tx := s.current()
	if tx == nil {
		s.say([]byte(sayNeedMail))
		return
	}
	if tx.rcpts++; tx.rcpts > s.snap.Limits.Recipients {
		s.say([]byte(sayTooManyRcpt))
		return
	}
	path, params, err := smtpwire.ParseRcpt(cmd.Arg)
	if err != nil {
		s.say([]byte(sayBadSyntax + err.Error() + "\r\n"))
		return
	}
	recipient, shown, err := address(path)
	if err != nil {
		s.say([]byte(sayBadSyntax + err.Error() + "\r\n"))
		return
	}
	if _, ok := s.params(params); !ok {
		return
	}
	rule := s.snap.Policy.EnvelopeRule(s.conn, &tx.sender, &recipient, time.Now())
	q := recipientQuestion{recipient: recipient, rule: rule, hosts: s.consult(recipient, rule, tx.requireTLS)}
	s.recollectDomain(recipient.Domain)
	v := s.decide(enforce.AtRcpt, rule, tx.requireTLS)
	if s.speak(v) {
		v = s.retry(v, tx, q)
	}
	s.relearn(v)
	s.pronounce(enforce.AtRcpt, v)
	if s.speak(v) {
		s.mu.Lock()
		tx.rec.Refuse(record.Refused{Domain: shown, Rule: v.Rule, Reason: v.Reason})
		s.mu.Unlock()
		s.say(s.refusal(v.Reason.Codes(v.Action), v.Reason, v.Detail))
		return
	}
	s.mu.Lock()
	tx.live++
	s.mu.Unlock()
	s.forward(cmd.Line, &expected{kind: rcpt, tx: tx, domain: shown})
}

// domains makes A-labels of domains that may hold UTF-8 (RFC 5890, RFC 6531). It
// is as lenient as registries and hosts are: what matters is that two spellings
// of one domain come out the same.
var domains = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false))

// address turns a path into what rules look at, and into what the record shows
// of it. A domain that has no A-label form is an error, and the path must not be
// forwarded: it could be another to the server than to the rules.
func address(path smtpwire.Path) (a enforce.Address, shown string, err error) {
	if path.Literal {
		return enforce.Address{Literal: true}, record.Quote(path.Domain, 128), nil
	}
	domain := strings.TrimSuffix(path.Domain, ".")
	if !plainDomain(domain) {
		domain, err = domains.ToASCII(domain)
	}
	if err != nil || len(domain) > 253 || path.Domain != "" && domain == "" {
		return a, "", smtpwire.SyntaxError("domain is not valid")
	}
	domain = strings.ToLower(domain)
	return enforce.Address{Domain: domain}, domain, nil
}

// plainDomain reports whether a domain is one already that ToASCII could only put
// into lower case: labels of letters, digits and hyphens, none an A-label.
func plainDomain(domain string) bool {
	start := true
	for i := range len(domain) {
		switch c := domain[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			start = false
		case c == '-' && !start:
			if i > 0 && domain[i-1] == '-' {
				return false // it may be an A-label
			}
		case c == '.' && !start && domain[i-1] != '-':
			start = true
		default:
			return false
		}
	}
	return !start && domain[len(domain)-1] != '-'
}
