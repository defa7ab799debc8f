// Package record is the session record: what is written down of each session,
// once, however it ends, and in which form it reaches the log or the journal.
//
// It is the one place that redacts. Local parts of addresses, AUTH arguments and
// message content have no field to stand in, and whatever a peer said is escaped
// and cut before it is kept. It judges nothing and speaks to no peer.
package record

import (
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/enforce"
)

// Message is the msg of the log line that carries a Record.
const Message = "session"

// A Record is what became of one session. Fields left at zero are left out.
// Strings that come of a peer are made with Quote or Redact.
type Record struct {
	Session    string // the id that refusals quote
	Start      time.Time
	Mode       string // "enforce" or "observe"
	Generation uint64 // of the configuration

	Client    Peer
	Upstream  Peer
	Interface string // where the connection came in

	Rule    string         // the connection rule
	Verdict enforce.Action // the strictest that was given
	Reason  enforce.Reason
	Detail  string // of the reason
	Stage   enforce.Stage
	TLS     string // policy and outcome: "may:TLSv1.3", "encrypt!nostarttls"
	// Failures are all demands that were not met, those only logged included.
	Failures []enforce.Failure

	ClientTLS   Leg
	UpstreamTLS Leg

	Transactions []*Transaction // see Begin
	kept         int            // entries of all of them
	omitted      int            // beyond MaxEntries

	In, Out  int64 // octets read from and written to the client, inside TLS where it has it
	Duration time.Duration
	End      string // how it ended, in a few words
}

// MaxEntries bounds how many transactions, recipient domains and refusals of a
// session are kept, all together; of the others only the number is.
const MaxEntries = 4000

// A Peer is one of the two whom a session connects.
type Peer struct {
	Address netip.AddrPort
	Helo    string // client
	Banner  string // upstream
}

// A Leg is what TLS came to on one leg.
type Leg struct {
	State                           enforce.TLSState
	Version, Cipher, Group          uint16
	Resumed                         bool
	ForwardSecrecy                  bool
	SNI                             string
	OfferedVersions, OfferedCiphers []uint16 // client leg: what the client offered
	Certificate                     *Certificate
	Verified                        bool
	VerifyError                     string        // why not
	Revocation                      string        // "good", "revoked" or "unknown", where a rule asked
	DANE, MTASTS                    string        // upstream leg: what the recipients' domains publish, and what it came to
	StrippedBy                      string        // upstream leg: what took STARTTLS away, where it can be told
	Replaced                        *Leg          // upstream leg: the one before it, where another name was asked for
	Failure                         string        // why State is failed
	Hold                            *enforce.Hold // client leg: what it is held to
}

// A Certificate is the leaf that the peer of a leg showed.
type Certificate struct {
	Subject, Issuer     string
	Names               []string
	Chain               []string // subjects of what was shown behind the leaf
	SHA256, SPKISHA256  [32]byte
	NotBefore, NotAfter time.Time
	Key                 string // "ECDSA P-256", "RSA 2048"
}

// A Transaction is one MAIL that reached the upstream, or was refused.
type Transaction struct {
	MailDomain  string // "" for the null reverse-path
	RcptDomains []string
	Accepted    int // recipients that the upstream accepted
	Refused     []Refused
	Bytes       int64  // of message content, as it was sent upstream
	Reply       string // the upstream's to the end of the message, redacted

	record *Record
}

// Begin adds a transaction to the record.
func (r *Record) Begin(mailDomain string) *Transaction {
	t := &Transaction{MailDomain: mailDomain, record: r}
	if r.room() {
		r.Transactions = append(r.Transactions, t)
	}
	return t
}

func (r *Record) room() bool {
	if r.kept == MaxEntries {
		r.omitted++
		return false
	}
	r.kept++
	return true
}

// Accept notes a recipient that the upstream accepted.
func (t *Transaction) Accept(domain string) {
	t.Accepted++
	if !slices.Contains(t.RcptDomains, domain) && t.record.room() {
		t.RcptDomains = append(t.RcptDomains, domain)
	}
}

// Refuse notes a sender or recipient that was refused.
func (t *Transaction) Refuse(r Refused) {
	if t.record.room() {
		t.Refused = append(t.Refused, r)
	}
}

// Refused is one sender or recipient that was refused.
type Refused struct {
	Domain string
	Rule   string
	Reason enforce.Reason
	Reply  string // the codes of the upstream, where it was the one to refuse
}

// Emit writes r to log, whatever the log's level: that bounds what is told of the
// program, and a record is what the program is for.
func (r *Record) Emit(log *zap.Logger) {
	e := zapcore.Entry{Level: zapcore.InfoLevel, Time: time.Now(), Message: Message}
	if err := log.Core().Write(e, []zapcore.Field{zap.Inline(r)}); err != nil {
		log.Error("a record could not be written", zap.String("session", r.Session), zap.Error(err))
	}
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (r *Record) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	o.str("session", r.Session)
	o.str("mode", r.Mode)
	enc.AddUint64("generation", r.Generation)
	enc.AddObject("client", &r.Client)
	enc.AddObject("upstream", &r.Upstream)
	o.str("interface", r.Interface)
	o.str("rule", r.Rule)
	o.str("verdict", r.Verdict.String())
	o.str("reason", string(r.Reason))
	o.str("detail", r.Detail)
	o.str("stage", r.Stage.String())
	o.str("tls", r.TLS)
	if len(r.Failures) > 1 || len(r.Failures) == 1 && r.Failures[0].Logged {
		enc.AddArray("failures", (*failures)(&r.Failures))
	}
	enc.AddObject("client_tls", (*clientLeg)(&r.ClientTLS))
	enc.AddObject("upstream_tls", (*upstreamLeg)(&r.UpstreamTLS))
	enc.AddArray("transactions", (*transactions)(&r.Transactions))
	if r.omitted > 0 {
		enc.AddInt("omitted", r.omitted)
	}
	enc.AddObject("bytes", (*octets)(r))
	enc.AddFloat64("duration_ms", float64(r.Duration.Microseconds())/1000)
	o.str("end", r.End)
	return nil
}
