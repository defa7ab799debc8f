package session

import (
	"crypto/rand"
	"encoding/base32"
	"strconv"
	"strings"

	"postern/enforce"
	"postern/proxy/internal/record"
)

// This file holds every reply that is Postern's own. What a refusal says is the
// fact, the reason and the session, and nothing of the inside: no rule, no
// address behind the edge.

// Replies to what a client does out of order, or what Postern does not let
// through. Codes are those of RFC 5321 §4.2.2 and RFC 3463.
const (
	sayBadSyntax     = "501 5.5.4 "
	sayBadPath       = "501 5.1.7 "
	sayLineTooLong   = "500 5.5.2 line too long\r\n"
	sayUnknown       = "500 5.5.2 command not recognized\r\n"
	sayNoArgument    = "501 5.5.4 no argument allowed\r\n"
	sayHelloFirst    = "503 5.5.1 say EHLO first\r\n"
	sayNotOffered    = "502 5.5.1 not offered here\r\n"
	sayNeedMail      = "503 5.5.1 MAIL first\r\n"
	sayNestedMail    = "503 5.5.1 sender already given\r\n"
	sayNeedRcpt      = "503 5.5.1 no valid recipients\r\n"
	sayNoMix         = "503 5.5.1 DATA and BDAT do not mix\r\n"
	sayTooManyRcpt   = "452 4.5.3 too many recipients\r\n"
	sayBadParam      = "555 5.5.4 parameter not offered: "
	sayGoneParam     = "451 4.5.4 parameter not offered any more: "
	sayGone          = "451 4.5.4 not offered any more\r\n"
	sayReady         = "220 2.0.0 ready to start TLS\r\n"
	sayInTransaction = "503 5.5.1 not within a transaction\r\n"
	sayAlreadyTLS    = "503 5.5.1 TLS is already active\r\n"
	sayAuthNeedsTLS  = "538 5.7.11 AUTH needs TLS on the whole way\r\n"
	sayBye           = "221 2.0.0 bye\r\n"
	sayTimeout       = "421 4.4.2 "
)

// detailLimit bounds what a reply says of a failure; a whole line has at most
// 512 octets (RFC 5321 §4.5.3.1.5).
const detailLimit = 200

// words are a refusal of the connection: code 421 or 554.
func (s *Session) words(code int, reason enforce.Reason, a enforce.Action, detail string) []byte {
	return s.refusal(strconv.Itoa(code)+" "+reason.Enhanced(a), reason, detail)
}

// refusal words a refusal behind the codes given.
func (s *Session) refusal(codes string, reason enforce.Reason, detail string) []byte {
	return []byte(codes + " " + s.nameForReplies() + ": " + ascii(detail) + " (" + string(reason) + ") [" + s.rec.Session + "]\r\n")
}

// shuttingDown is said to a client that has nothing under way.
func (s *Session) shuttingDown() []byte {
	return []byte("421 4.3.2 " + s.nameForReplies() + ": service is shutting down [" + s.rec.Session + "]\r\n")
}

// nameForReplies is the upstream's name as the client knows it. An address that
// the client did not name itself is none of its business.
func (s *Session) nameForReplies() string {
	if s.name != "" {
		return s.name
	}
	if a := s.rec.Upstream.Address; s.meant {
		return "[" + a.Addr().String() + "]"
	}
	return "server"
}

// ascii makes text that may quote a peer fit for a reply line.
func ascii(text string) string {
	text = record.Redact(text, detailLimit)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// newID makes the id that a refusal quotes and the record bears: short enough to
// be read out over the telephone, long enough not to come twice in a week.
func newID() string {
	var random [5]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	return base32.StdEncoding.EncodeToString(random[:])
}
