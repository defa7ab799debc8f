package proxytest

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// session lets a client go through everything: it returns the report.
func session(t *testing.T, cfg ServerConfig, timeout time.Duration) (Report, Delivery, *Server) {
	t.Helper()
	s := serve(t, cfg)
	d := Delivery{STARTTLS: AlwaysTLS, TLS: trusting(t), Mails: []Mail{mail("hello\r\n")}, Timeout: timeout}
	// As a proxy that would rather have bad TLS than none.
	d.TLS.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	return Deliver(dial(t, s), d), d, s
}

// stages are those that such a session passes.
var stages = []Stage{AtBanner, AtHello, AtSTARTTLS, InHandshake, AtMail, AtRcpt, AtData, InContent, AtEndOfData, AtQuit}

func TestAServerDropsTheConnectionAtWhicheverStageIsAskedFor(t *testing.T) {
	for _, at := range stages {
		for name, action := range map[string]Action{"drop": Drop(), "reset": Reset(), "last words": Say("421 4.3.0 bye").Then(Drop())} {
			if at == AtBanner && name == "reset" {
				continue // it may be dialling that fails then
			}
			t.Run(string(at)+", "+name, func(t *testing.T) {
				t.Parallel()
				cfg := secure(t)
				cfg.On = map[Stage]Action{at: action}
				report, _, s := session(t, cfg, 10*time.Second)
				record := ended(t, s)
				if report.Err == nil && name != "last words" || record.End != "dropped" {
					t.Errorf("the client says %v, the server %q", report.Err, record.End)
				}
				heard := len(report.Transcript) > 0 && strings.Contains(transcript(report), "421 4.3.0 bye")
				if name == "last words" && !heard && at != InHandshake {
					t.Errorf("the last words were not heard:\n%s", transcript(report))
				}
				if len(record.Messages) > 0 != (at == AtQuit) {
					t.Errorf("%d messages", len(record.Messages))
				}
			})
		}
	}
}

func transcript(r Report) string {
	var lines []string
	for _, line := range r.Transcript {
		lines = append(lines, line.String())
	}
	return strings.Join(lines, "\n")
}

func TestAServerStallsAtWhicheverStageUntilTheClientGivesUp(t *testing.T) {
	for _, at := range stages {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			cfg := secure(t)
			cfg.On = map[Stage]Action{at: Stall()}
			report, _, s := session(t, cfg, 300*time.Millisecond)
			if !errors.Is(report.Err, os.ErrDeadlineExceeded) {
				t.Errorf("the client says %v", report.Err)
			}
			if record := ended(t, s); record.End != "stalled" {
				t.Errorf("the server says %q", record.End)
			}
		})
	}
}

func TestClosingAServerEndsWhatStalls(t *testing.T) {
	s := serve(t, ServerConfig{On: map[Stage]Action{AtBanner: Stall()}})
	conn := dial(t, s)
	if _, err := s.Wait(t.Context(), func(list []Session) bool { return len(list) == 1 }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection still speaks")
	}
	if err := s.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}

func TestAServerRefusesAtWhicheverStage(t *testing.T) {
	for at, want := range map[Stage]string{
		AtBanner: "greeting: 451 no", AtHello: "hello: 451 no", AtSTARTTLS: "no STARTTLS: 451 no",
		InHandshake: "handshake: tls: first record does not look like a TLS handshake", AtMail: "", AtRcpt: "", AtData: "", AtEndOfData: "", AtQuit: "",
	} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			cfg := secure(t)
			cfg.On = map[Stage]Action{at: Say("451 no")}
			report, d, s := session(t, cfg, 10*time.Second)
			if (report.Err == nil) != (want == "") || want != "" && !strings.Contains(report.Err.Error(), want) {
				t.Fatalf("%v", report.Err)
			}
			if report.Accepted(d) != (at == AtQuit) || len(ended(t, s).Messages) > 0 != (at == AtQuit) {
				t.Errorf("accepted %v\n%s", report.Accepted(d), transcript(report))
			}
			if want != "" || at == AtQuit {
				return
			}
			o := report.Outcomes[0]
			for stage, reply := range map[Stage]Reply{AtMail: o.Mail, AtRcpt: first(o.Rcpt), AtData: o.Data, AtEndOfData: o.End} {
				if (reply.Code == 451) != (stage == at) {
					t.Errorf("%s got %v", stage, reply)
				}
			}
		})
	}
}

func first(list []Reply) Reply {
	if len(list) == 0 {
		return Reply{}
	}
	return list[0]
}

func TestABDATIsRefusedWithoutLosingItsPlace(t *testing.T) {
	for at, action := range map[Stage]Action{AtData: Say("451 no"), AtRcpt: Say("550 no"), AtEndOfData: Say("554 no")} {
		t.Run(string(at), func(t *testing.T) {
			s := serve(t, ServerConfig{On: map[Stage]Action{at: action}})
			c := greeted(t, s)
			if _, err := c.Hello("EHLO", "client.test"); err != nil {
				t.Fatal(err)
			}
			replies, err := c.Pipeline("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "BDAT 6\r\nQUIT", "BDAT 0 LAST", "NOOP")
			if err != nil {
				t.Fatal(err)
			}
			if last := replies[4].String(); last != "250 2.0.0 ok" || replies[3].OK() {
				t.Errorf("%v", replies)
			}
			if _, err := c.Quit(); err != nil {
				t.Error(err)
			}
			if got := ended(t, s); len(got.Messages) > 0 || len(got.Violations) > 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestOneRecipientIsRefusedWhileAnotherPasses(t *testing.T) {
	cfg := ServerConfig{Recipients: map[string]string{"no@mx.test": "550-5.1.1 there is\n550 5.1.1 nobody"}}
	s := serve(t, cfg)
	m := mail("hello\r\n")
	m.To = []string{"no@mx.test", "b@mx.test"}
	d := Delivery{Mails: []Mail{m}, Timeout: 10 * time.Second}
	report := Deliver(dial(t, s), d)
	if !report.Accepted(d) || report.Outcomes[0].Rcpt[0].String() != "550-5.1.1 there is\n550 5.1.1 nobody" {
		t.Fatalf("%v\n%s", report.Err, transcript(report))
	}
	if to := ended(t, s).Messages[0].Recipients; len(to) != 1 || to[0].Address != "b@mx.test" {
		t.Errorf("%v", to)
	}
}

func TestADelayComesBeforeEveryReply(t *testing.T) {
	const delay = 20 * time.Millisecond
	s := serve(t, ServerConfig{Delay: delay})
	began := time.Now()
	c := greeted(t, s)
	if _, err := c.Pipeline("EHLO a.test"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*delay {
		t.Errorf("two replies took %s", took)
	}
	if _, err := c.Quit(); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestContentThatNeverEndsIsKeptAsUnfinished(t *testing.T) {
	for name, raw := range map[string]string{"DATA": "DATA\r\n|hello\r\n.", "BDAT": "BDAT 20\r\nhello\r\n."} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, ServerConfig{})
			c := greeted(t, s)
			if _, err := c.Hello("EHLO", "a.test"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Pipeline("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>"); err != nil {
				t.Fatal(err)
			}
			command, content, asked := strings.Cut(raw, "|")
			if _, err := c.Write([]byte(command)); err != nil {
				t.Fatal(err)
			}
			if asked {
				if reply, err := c.ReadReply(); err != nil || reply.Code != 354 {
					t.Fatalf("%s, %v", reply, err)
				}
				if _, err := c.Write([]byte(content)); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if got := ended(t, s); string(got.Unfinished) != "hello\r\n." || len(got.Messages) > 0 {
				t.Errorf("unfinished %q, %d messages, end %q", got.Unfinished, len(got.Messages), got.End)
			}
		})
	}
}
