package leg

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"postern/smtpwire"
)

// ErrInterrupted ends a wait for the peer's next command because Interrupt was
// called. Nothing is lost by it.
var ErrInterrupted = errors.New("interrupted")

// ErrAborted ends every read after Abort.
var ErrAborted = errors.New("aborted")

// past is a deadline that has always expired.
var past = time.Unix(1, 0)

// A Conn is one phase, clear or TLS, of one leg. Reading is for one goroutine
// and writing for one goroutine at a time; Interrupt, Abort and Close are for
// any.
type Conn struct {
	raw     net.Conn // the socket
	conn    net.Conn // raw, or the TLS over it
	under   *wire    // between the two; nil in clear
	read    *smtpwire.Reader
	pending *gathered     // to be written at the next Flush; nil: nothing is
	write   time.Duration // how long one write may take
	counts  *Counts

	content     bool          // message content is passing
	contentLeft time.Duration // to be waited for its next contentStep octets
	contentFrom int64         // counts.Read when that began
	contentSeen int64         // octets of this message

	mu          sync.Mutex
	armed       time.Time // when writing was last given its time
	idle        bool      // the reader waits for a command
	interrupted bool
	aborted     bool
	failed      error // of a write: what follows would stand behind a gap
	stuck       bool  // that was because the peer did not read
}

// Counts are the octets that passed on a leg, inside TLS where it has it.
type Counts struct{ Read, Written int64 }

// New returns the clear phase of a leg on a socket. write bounds each write.
func New(socket net.Conn, write time.Duration) *Conn {
	return newPhase(socket, socket, write, new(Counts))
}

func newPhase(raw, conn net.Conn, write time.Duration, counts *Counts) *Conn {
	c := &Conn{raw: raw, conn: conn, write: write, counts: counts}
	c.read = smtpwire.NewReader(countingReader{conn, &counts.Read})
	return c
}

type countingReader struct {
	io.Reader
	n *int64
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	*c.n += int64(n)
	return n, err
}

// Counts returns what has passed; it may be read when nothing passes any more.
func (c *Conn) Counts() Counts { return *c.counts }

// Socket returns the socket underneath, for those who pass octets through.
func (c *Conn) Socket() net.Conn { return c.raw }

// Rest takes what was read and not consumed, for those who pass octets through.
func (c *Conn) Rest() []byte {
	n := c.read.Buffered()
	if n == 0 {
		return nil
	}
	rest, _ := c.read.Peek()
	c.read.Advance(n)
	return rest
}

// Buffered returns how many octets were read and not consumed.
func (c *Conn) Buffered() int { return c.read.Buffered() }

// AtRest reports whether nothing of what the peer says next was read yet.
func (c *Conn) AtRest() bool { return c.read.AtRest() }

// Rested reports whether all that has come was read, and gives back the buffers if
// so. What is still in the socket is left there.
func (c *Conn) Rested() bool {
	if !c.read.AtRest() || c.pending != nil {
		return false
	}
	// Octets may have been taken from the socket that are inside TLS still.
	c.SetReplyDeadline(past)
	if _, err := c.read.Peek(); !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.read.Release()
	return true
}

// HasLine reports whether the next ReadLine can be answered without waiting.
func (c *Conn) HasLine() bool {
	return c.read.HasLine() || c.gather() && c.read.HasLine()
}

// gather reads what has come of further TLS records already, so that what they hold
// is passed on together. It reports whether there was anything.
func (c *Conn) gather() (more bool) {
	if c.under == nil || !c.under.more && c.under.raw == nil {
		return false
	}
	c.under.dry = true
	for c.read.Gather() {
		more = true
	}
	c.under.dry = false
	c.under.more = more
	return more
}

// ReadCommand waits up to timeout for a command line of at most limit octets.
// Besides the errors of smtpwire it returns ErrInterrupted, once for each
// Interrupt.
func (c *Conn) ReadCommand(limit int, timeout time.Duration) ([]byte, error) {
	if err := c.startIdle(timeout); err != nil {
		return nil, err
	}
	line, err := c.read.ReadLine(limit)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = false
	if errors.Is(err, os.ErrDeadlineExceeded) && c.interrupted && !c.aborted {
		c.interrupted = false
		return nil, ErrInterrupted
	}
	return line, c.abortedOr(err)
}

// PeekStart waits like ReadCommand, for the first octets of whatever the peer
// says next, and consumes nothing.
func (c *Conn) PeekStart(timeout time.Duration) ([]byte, error) {
	if err := c.startIdle(timeout); err != nil {
		return nil, err
	}
	start, err := c.read.Peek()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = false
	if errors.Is(err, os.ErrDeadlineExceeded) && c.interrupted && !c.aborted {
		c.interrupted = false
		return nil, ErrInterrupted
	}
	return start, c.abortedOr(err)
}

func (c *Conn) startIdle(timeout time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.aborted:
		return ErrAborted
	case c.interrupted:
		c.interrupted = false
		return ErrInterrupted
	}
	if c.read.HasLine() {
		return nil // there is nothing to wait for
	}
	c.idle = true
	return c.raw.SetReadDeadline(time.Now().Add(timeout))
}

// ReadReply reads one reply. Its deadline is that of SetReplyDeadline; when that
// passes the call can be repeated and goes on where it was.
func (c *Conn) ReadReply(maxLines int) (smtpwire.Reply, error) {
	reply, err := c.read.ReadReply(maxLines)
	c.mu.Lock()
	defer c.mu.Unlock()
	return reply, c.abortedOr(err)
}

// SetReplyDeadline sets until when ReadReply waits.
func (c *Conn) SetReplyDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.aborted && c.failed == nil {
		c.raw.SetReadDeadline(t) // an error means a closed socket, which reading tells
	}
}

// contentStep is how much content, in octets, has to come within each timeout. A
// peer that sends one octet at a time would otherwise have a session for years.
// Only waiting for it counts: it may be the other leg that is slow.
const contentStep = 4 << 10

// PeekContent waits up to timeout for more message content and returns what is
// there; Advance consumes it. The timeout begins anew with every 4 KiB.
func (c *Conn) PeekContent(timeout time.Duration) ([]byte, error) {
	if c.read.Buffered() > 0 {
		return c.read.Peek()
	}
	if !c.content {
		c.contentSeen = 0
	}
	if !c.content || c.counts.Read-c.contentFrom >= contentStep {
		c.content, c.contentLeft, c.contentFrom = true, timeout, c.counts.Read
	}
	began := time.Now()
	c.SetReplyDeadline(began.Add(c.contentLeft))
	content, err := c.peekContent()
	c.contentLeft -= time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	return content, c.abortedOr(err)
}

// flowAt is how much of a message has to have come, in octets, that the rest is
// worth large buffers.
const flowAt = 64 << 10

// peekContent reads what there is of content. Where much of it comes it gathers
// what has come already, so that it is written at once.
func (c *Conn) peekContent() (content []byte, err error) {
	size := smtpwire.ContentBuffer
	flowing := c.contentSeen >= flowAt
	if flowing {
		size = smtpwire.FlowBuffer
	}
	if c.under != nil {
		c.under.flow(flowing)
	}
	if content, err = c.read.PeekContent(size); err != nil {
		return nil, err
	}
	if c.gather() {
		content, err = c.read.PeekContent(size)
	}
	c.contentSeen += int64(len(content))
	return content, err
}

// Advance consumes n octets of peeked content.
func (c *Conn) Advance(n int) { c.read.Advance(n) }

// EndContent gives back the buffers that content needed.
func (c *Conn) EndContent() {
	c.content = false
	if c.under != nil {
		c.under.flow(false)
	}
	c.read.Shrink()
}

// abortedOr says ErrAborted for whatever a read came to after Abort. c.mu is held.
func (c *Conn) abortedOr(err error) error {
	if err != nil && (c.aborted || c.failed != nil && errors.Is(err, os.ErrDeadlineExceeded)) {
		return ErrAborted
	}
	return err
}

const (
	// flushAt is how much is gathered before it is written without a Flush, octets.
	flushAt = 16 << 10
	// atOnce is how large a piece is that is not worth gathering, octets.
	atOnce = 4 << 10
)

// gathered is what is written at the next Flush.
type gathered struct {
	octets [flushAt + atOnce]byte
	n      int
}

var gatherings = sync.Pool{New: func() any { return new(gathered) }}

// Write sends p, or keeps it until Flush when it is small. p is not kept.
//
// After a write that failed every other does, and what the peer had said before
// can be read for a short while yet.
func (c *Conn) Write(p []byte) error {
	if c.failed != nil {
		return c.failed
	}
	if c.pending == nil && len(p) >= atOnce {
		return c.send(p)
	}
	if c.pending == nil {
		c.pending = gatherings.Get().(*gathered)
	}
	if len(p) > len(c.pending.octets)-c.pending.n {
		if err := c.Flush(); err != nil {
			return err
		}
		return c.send(p)
	}
	c.pending.n += copy(c.pending.octets[c.pending.n:], p)
	if c.pending.n >= flushAt {
		return c.Flush()
	}
	return nil
}

// Flush sends what Write kept, in one piece: a reply and a handshake in several
// would cost a delayed acknowledgement each.
func (c *Conn) Flush() error {
	if c.failed != nil {
		return c.failed
	}
	if c.pending == nil {
		return nil
	}
	err := c.send(c.pending.octets[:c.pending.n])
	c.pending.n = 0
	gatherings.Put(c.pending)
	c.pending = nil
	return err
}

func (c *Conn) send(p []byte) error {
	if c.under == nil {
		if err := c.armWrite(); err != nil {
			return err
		}
	}
	n, err := c.deliver(p)
	c.counts.Written += int64(n)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed = err
		if !c.aborted {
			c.stuck = errors.Is(err, os.ErrDeadlineExceeded)
			c.raw.SetReadDeadline(time.Now().Add(lastWords))
		}
	}
	return err
}

// deliver writes p. The records that it takes go to the kernel together.
func (c *Conn) deliver(p []byte) (int, error) {
	if c.under == nil || len(p) <= smtpwire.ContentBuffer {
		return c.conn.Write(p)
	}
	c.under.cork()
	n, err := c.conn.Write(p)
	if more := c.under.uncork(); err == nil {
		err = more
	}
	return n, err
}

// lastWords is how long a write may take after Abort.
const lastWords = 2 * time.Second

// armWrite gives a write its time. One that is armed already is left so while
// little of its time has passed, for it costs as much as a system call.
func (c *Conn) armWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	limit := c.write
	if c.aborted {
		limit = min(limit, lastWords)
	} else if since := now.Sub(c.armed); since < limit/32 {
		return nil
	}
	c.armed = now
	return c.raw.SetWriteDeadline(now.Add(limit))
}

// Interrupt ends the wait for the peer's next command, the one that is under way
// or else the next, and disturbs nothing else.
func (c *Conn) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = true
	if c.idle {
		c.raw.SetReadDeadline(past)
	}
}

// Abort ends the write that is under way and all reads, now and later. What is
// said after it, a last reply, has a short while to be written.
func (c *Conn) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted = true
	c.raw.SetDeadline(past)
}

// Close closes the socket at once, below any TLS: a close_notify could block.
//
// A peer that did not read for so long that a write failed is reset. Else the
// kernel would keep what was written for it, megabytes it may be, and offer it
// again and again, long after nobody here counts that peer any more.
func (c *Conn) Close() error {
	if socket, ok := c.raw.(interface{ SetLinger(int) error }); ok && c.isStuck() {
		socket.SetLinger(0) // an error means a closed socket
	}
	return c.raw.Close()
}

func (c *Conn) isStuck() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stuck
}

const (
	lingerTime   = 2 * time.Second
	lingerOctets = 1 << 20
)

// Linger closes the leg so that what was written last arrives: it ends the
// writing side, drops what the peer still sends for a short while, and closes. A
// socket closed over unread octets is reset, and takes the last reply with it.
func (c *Conn) Linger() error {
	defer c.Close()
	if c.isStuck() {
		return nil // what was written last will not arrive
	}
	c.mu.Lock()
	c.aborted = true // the close_notify has the time of last words, as all has from here on
	c.mu.Unlock()
	deadline := time.Now().Add(lingerTime)
	if err := c.raw.SetDeadline(deadline); err != nil {
		return err
	}
	if secure, ok := c.conn.(interface{ CloseWrite() error }); ok && c.conn != c.raw {
		secure.CloseWrite() // close_notify; the socket's own end follows whatever comes of it
	}
	half, ok := c.raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return nil
	}
	var drop [4 << 10]byte
	for n := 0; n < lingerOctets; {
		more, err := c.raw.Read(drop[:])
		if err != nil {
			return nil
		}
		n += more
	}
	return nil
}
