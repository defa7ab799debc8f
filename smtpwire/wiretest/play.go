package wiretest

import (
	"net"
	"testing"
)

// Play parses and runs a script and fails the test where it is not kept to. It
// must be called from the test's own goroutine.
func Play(t testing.TB, conn net.Conn, side Side, script string, o Options) Result {
	t.Helper()
	return Start(t, conn, side, script, o)()
}

// Start runs a script beside the test. The function it returns waits for the
// end and fails the test where the script was not kept to; it must be called
// from the test's own goroutine. If the test ends without it, the connection is
// closed and the run waited for, so that nothing is left behind.
func Start(t testing.TB, conn net.Conn, side Side, script string, o Options) (wait func() Result) {
	t.Helper()
	s, err := Parse(script)
	if err != nil {
		t.Fatal(err)
	}
	var result Result
	var failure error
	done := make(chan struct{})
	go func() {
		defer close(done)
		result, failure = s.Run(conn, side, o)
	}()
	t.Cleanup(func() {
		select {
		case <-done:
		default:
			_ = conn.Close()
			<-done
		}
	})
	return func() Result {
		t.Helper()
		<-done
		if failure != nil {
			t.Fatal(failure)
		}
		return result
	}
}
