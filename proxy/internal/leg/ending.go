package leg

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"postern/smtpwire"
)

// An Ending is the way in which a leg came to its end, in the words of the
// record.
type Ending string

// The endings.
const (
	Closed   Ending = "closed"   // the peer closed its side
	Reset    Ending = "reset"    // the connection was reset, or ended within a line or record
	Timeout  Ending = "timeout"  // the peer let a time limit pass
	Alert    Ending = "alert"    // the peer sent a TLS alert
	Broken   Ending = "protocol" // the peer broke a rule of SMTP or TLS
	Aborted  Ending = "aborted"  // we ended it
	Unlikely Ending = "error"    // anything else
)

// EndingOf classifies an error of any method of a Conn. It is the only place
// where such errors are told apart.
func EndingOf(err error) Ending {
	var record interface{ Timeout() bool }
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrAborted), errors.Is(err, ErrInterrupted), errors.Is(err, net.ErrClosed):
		return Aborted
	case errors.Is(err, io.EOF):
		return Closed
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Reset
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &record) && record.Timeout():
		return Timeout
	case IsWire(err), brokeTLS(err):
		return Broken
	}
	if _, ok := RemoteAlert(err); ok {
		return Alert
	}
	return Unlikely
}

// brokeTLS reports whether err is a rule of TLS that the peer broke, as those do who
// ask for renegotiation: what came is no record, crypto/tls has answered it with an
// alert, or says so in an error that has no type, but always these words in front.
func brokeTLS(err error) bool {
	var op *net.OpError
	return errors.As(err, new(tls.RecordHeaderError)) || errors.As(err, &op) && op.Op == "local error" ||
		strings.HasPrefix(err.Error(), "tls: ")
}

// IsWire reports whether err is a rule of SMTP that the peer broke.
func IsWire(err error) bool {
	for _, rule := range []error{smtpwire.ErrLineTooLong, smtpwire.ErrLineEndless, smtpwire.ErrBareNewline,
		smtpwire.ErrReplySyntax, smtpwire.ErrReplyTooLong, ErrInjected} {
		if errors.Is(err, rule) {
			return true
		}
	}
	return false
}
