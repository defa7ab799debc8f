package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/proxy/internal/record"
	"postern/smtpwire"
)

// A Snapshot is what a session goes by from its first moment to its last. It is
// shared by many sessions and never changed; a reload makes another.
type Snapshot struct {
	Generation uint64
	Observe    bool // verdicts are recorded, not spoken
	Policy     *enforce.Policy

	// Certificate chooses what is shown to a client; nil: there is nothing to
	// show, and STARTTLS is not offered.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Named finds the certificate that a rule shows to the upstream.
	Named func(name string) *tls.Certificate
	// Mint makes one that is named as the upstream's; trusted says that that one
	// verified, and nothing else may look to the client as if it did. nil: none is.
	Mint func(like *x509.Certificate, trusted bool) (*tls.Certificate, error)
	// Verify builds a chain to the roots called ca; "" are those of [tls.trust]. Of
	// one that verifies it gives the chain that was built, too.
	Verify func(ca string, chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (enforce.ChainResult, []*x509.Certificate)
	// Revoked tells whether anything of a chain that was built was revoked, given
	// the answer that was stapled to it. It takes no longer than the context, and
	// without wait no time at all. nil: nobody asks.
	Revoked func(ctx context.Context, built []*x509.Certificate, stapled []byte, wait bool) enforce.RevocationResult
	// Resume gives the cache in which sessions to the upstream are kept under a
	// key; nil: none is resumed.
	Resume func(key string) tls.ClientSessionCache

	Holds    Holds    // nil: no client is held
	Memory   Memory   // nil: nothing is remembered of destinations
	Partners Partners // nil: what domains publish is not known
	// Complained is told of a client that refused the certificate it was shown;
	// nil: nobody counts.
	Complained func(enforce.Connection)

	Extensions  map[string]bool // EHLO keywords let through besides those understood
	BareNewline smtpwire.BareNewline
	Limits      Limits
	Timeouts    Timeouts

	// Park waits in place of a session for either of its sockets, once nothing has
	// been said for RestAfter: see package parking. nil: a session waits by itself.
	RestAfter time.Duration
	Park      func(sockets []net.Conn, until time.Time, wake func()) (leave func(), err error)
}

// Holds remember clients whose handshake fell below the floor, from one session
// to the next.
type Holds interface {
	Begin(c enforce.Connection, offered uint16) // offered: the highest TLS version
	Find(enforce.Connection) *enforce.Hold      // nil: the client is not held
	Refused(c enforce.Connection, renew bool)   // because of its hold
	Clear(enforce.Connection)
}

// Limits bound what the peers of one session can make it hold.
type Limits struct {
	Recipients int // of one message
	Line       int // octets of a command line
	ReplyLines int // of one reply of the upstream
}

// Timeouts bound each wait of a session.
type Timeouts struct{ Connect, Handshake, Command, Data, Final time.Duration }

// An Arrival is a connection that was accepted and where it meant to go.
type Arrival struct {
	Conn      net.Conn
	Client    netip.AddrPort
	Upstream  netip.AddrPort // zero when the dialler alone knows
	Interface string         // "" when not known
}

// A Dial connects to the upstream. It is asked again when a session needs a
// second connection, and is then given the address that the first one reached:
// the rules were chosen for that. The context ends when the time for it has.
type Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

// A Session is one conversation, from accepted connection to record.
type Session struct {
	snap *Snapshot
	dial Dial
	log  *zap.Logger
	rec  record.Record

	ctx    context.Context // of dialling; ends with Abort
	cancel context.CancelFunc

	// ctl guards the legs, which Drain and Abort reach for from outside.
	ctl              sync.Mutex
	client, upstream *leg.Conn
	spare            *leg.Conn // a connection that may become the upstream leg
	draining         atomic.Bool
	aborted          atomic.Bool
	abortOwed        bool   // Abort was asked for; guarded by ctl, as is the next
	finals           int    // messages that went up whole and whose reply the client has not had
	unpark           func() // ends a rest; nil: it has none. guarded by ctl

	done  func()    // called when all is over
	since time.Time // when the client's next command began to be waited for; zero: it has come

	// Of the conversation; for the goroutine that reads the client.
	rule      *enforce.Rule
	conn      enforce.Connection
	mayHold   bool         // a hold of the client could matter
	holdFor   bool         // hold_for contains it
	auto      enforce.Auto // what a recipient's domain publishes binds, unless a rule says otherwise
	smartHost bool         // the destination is a smart host
	meant     bool         // the client itself meant the upstream's address
	facts     enforce.Facts
	legReason enforce.Reason      // why the upstream leg fell short of its connection rule
	shown     []*x509.Certificate // what the upstream showed
	partner   partner             // what is known of the recipients' domains
	minted    bool                // the client was shown a certificate named as the upstream's
	// authenticated: an AUTH dialogue succeeded on the present upstream leg.
	authenticated bool
	caps          smtpwire.Capabilities // of the upstream, less what is never let through
	name          string                // the upstream's own, by its banner; "" when that is no name
	helo          string                // under which the upstream was last greeted
	heloOnly      bool                  // it refused EHLO
	// The upstream's TLS is confirmed by its first reply inside; disproof is the
	// alert that came in its place.
	confirming bool
	disproof   error
	stepsIn    bool                  // Postern secures an upstream leg that it was only to watch
	promised   smtpwire.Capabilities // what the client was told before that; empty once it was told anew
	greeted    bool                  // the client was greeted in the present phase of its leg
	heard      bool                  // the client has said something in it
	wordless   bool                  // the client's TLS is agreed on, and it has given no command inside
	pumping    bool                  // the other goroutine runs

	// Of the order of things, guarded by the lock of replies.
	replies
	stage     enforce.Stage
	tx        *transaction // the one that the next RCPT belongs to; nil: none
	fresh     bool         // no MAIL was sent upstream since it was last reset
	uncertain bool         // the upstream may hold an envelope that was not judged
}

// New returns a session that goes by snap. The record goes to log.
func New(snap *Snapshot, arrival Arrival, dial Dial, log *zap.Logger) *Session {
	s := &Session{snap: snap, dial: dial, log: log, fresh: true}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.client = leg.New(arrival.Conn, snap.Timeouts.Command)
	s.replies.init()
	s.meant = arrival.Upstream.IsValid()
	s.rec = record.Record{
		Session:    newID(),
		Start:      time.Now(),
		Mode:       "enforce",
		Generation: snap.Generation,
		Client:     record.Peer{Address: arrival.Client},
		Upstream:   record.Peer{Address: arrival.Upstream},
		Interface:  arrival.Interface,
		Verdict:    enforce.Allow,
	}
	if snap.Observe {
		s.rec.Mode = "observe"
	}
	s.facts.Client.State = enforce.StateNone
	return s
}

// Run holds the conversation. It returns when both connections are closed and
// the record has been written.
func (s *Session) Run() {
	over := make(chan struct{})
	s.Start(func() { close(over) })
	<-over
}

// Start is Run, but it may return earlier: when the session comes to rest, which
// goes on by itself later. done is called when Run would return.
func (s *Session) Start(done func()) {
	s.done = done
	s.act(func() bool { return s.connect() && s.introduce() })
}

// act is what one goroutine does of the conversation: all, or as far as it rests.
func (s *Session) act(begin func() bool) {
	rests := false
	defer func() {
		if !rests {
			s.finish()
			s.done()
		}
	}()
	defer s.crashed()
	if begin() {
		rests = s.converse()
	}
}

// finish closes both legs, waits for the other goroutine and writes the record,
// however the session ended.
func (s *Session) finish() {
	s.cancel()
	s.closeUpstream()
	s.memorize()
	s.client.Flush()
	s.writeRecord() // before waiting for the client to take its last reply
	s.client.Linger()
}

// closeUpstream ends the upstream leg, politely where it is at rest.
func (s *Session) closeUpstream() {
	if s.upstream == nil {
		return
	}
	s.mu.Lock()
	atRest := !s.over && len(s.queue) == 0 && s.facts.Upstream.State != enforce.StateFailed && s.tx == nil && !s.inContent
	s.over = true
	s.mu.Unlock()
	if atRest && s.upstream.Write([]byte("QUIT\r\n")) == nil {
		s.upstream.Flush()
	}
	s.upstream.Close()
	if s.pumping {
		<-s.pumpDone
	}
}

func (s *Session) writeRecord() {
	counts := s.client.Counts()
	s.rec.In += counts.Read
	s.rec.Out += counts.Written
	s.rec.Duration = time.Since(s.rec.Start)
	if s.facts.Client.Failure == enforce.ClientRefusedCertificate && s.snap.Complained != nil {
		s.snap.Complained(s.conn)
	}
	s.rec.ClientTLS.State = s.facts.Client.State
	s.rec.UpstreamTLS.State = s.facts.Upstream.State
	if s.facts.Upstream.State == enforce.StateUnknown {
		s.rec.UpstreamTLS.State = enforce.StateNone // it did not come to any
	}
	s.rec.TLS = outcome(s.rule, s.facts.Upstream, s.legReason)
	if s.rec.End == "" {
		s.rec.End = "closed"
	}
	s.rec.Emit(s.log)
}

// Drain asks the session to end as soon as no message is under way: the client
// is told 421 at its next pause. It may be called from any goroutine.
func (s *Session) Drain() {
	s.draining.Store(true)
	s.ctl.Lock()
	defer s.ctl.Unlock()
	s.client.Interrupt()
	s.rouse()
}

// Abort ends the session now, unless it waits for the reply to a message that
// has gone up whole: giving that up could make the sender deliver it twice. Then
// it ends with that reply. It may be called from any goroutine.
func (s *Session) Abort() {
	s.draining.Store(true)
	s.ctl.Lock()
	s.abortOwed = true
	spared := s.finals > 0
	s.ctl.Unlock()
	if !spared {
		s.abort()
	}
}

// hold has an Abort wait for the reply to e, or says that one has come before.
func (s *Session) hold(e *expected) bool {
	s.ctl.Lock()
	defer s.ctl.Unlock()
	if s.abortOwed {
		return false
	}
	if e.last && !e.over && !s.over {
		s.finals++
	}
	return true
}

// letGo undoes hold, and says whether an Abort waited for that.
func (s *Session) letGo() bool {
	s.ctl.Lock()
	defer s.ctl.Unlock()
	s.finals--
	return s.finals == 0 && s.abortOwed
}

func (s *Session) abort() {
	s.aborted.Store(true)
	s.cancel()
	s.ctl.Lock()
	defer s.ctl.Unlock()
	s.rouse()
	s.client.Abort()
	for _, c := range []*leg.Conn{s.upstream, s.spare} {
		if c != nil {
			c.Abort()
		}
	}
}

// setUpstream puts another phase or another connection in place of the upstream
// leg.
func (s *Session) setUpstream(c *leg.Conn) {
	s.ctl.Lock()
	defer s.ctl.Unlock()
	s.upstream = c
	if s.aborted.Load() {
		c.Abort()
	}
}

// end notes how the session ended; the first to say so is right.
func (s *Session) end(how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(how)
}

func (s *Session) endLocked(how string) {
	if s.rec.End == "" {
		s.rec.End = how
	}
}

// Refuse is in place of Run for a connection that there is no room for: 421, and
// a record like any other's. It does not wait for the client.
func (s *Session) Refuse(reason enforce.Reason, detail string) {
	s.blame(reason, detail)
	s.end("refused")
	s.client.Write(s.words(421, reason, enforce.Defer, detail))
	s.client.Abort() // its last words have to be quick
	s.client.Flush()
	s.client.Close()
	s.cancel()
	s.writeRecord()
}
