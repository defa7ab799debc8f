package proxytest

import (
	"crypto/tls"
	"encoding/base64"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// piece is what a client sends at once, and how many replies it awaits then.
type piece struct {
	send    string
	replies int
}

func TestWhatMustNotComeIsWrittenDownAndHungUpOn(t *testing.T) {
	ehlo := piece{"EHLO a.test\r\n", 1}
	helo := piece{"HELO a.test\r\n", 1}
	quit := piece{"QUIT\r\n", 1}
	cases := []struct {
		name      string
		pieces    []piece
		violation string
		reply     string
	}{
		{"a bare LF", []piece{{"EHLO a\n", 1}}, "bare CR, LF or NUL", "500 5.5.2"},
		{"a bare CR", []piece{{"NOOP\rNOOP\r\n", 1}}, "bare CR, LF or NUL", "500 5.5.2"},
		{"a NUL", []piece{{"NOOP \x00\r\n", 1}}, "bare CR, LF or NUL", "500 5.5.2"},
		{"a long line", []piece{{strings.Repeat("a", maxLine+1) + "\r\n", 1}}, "2049 bytes", "500 5.5.2"},
		{"a line without end", []piece{{strings.Repeat("a", bufferSize+1), 1}}, "bytes or more", "500 5.5.2"},
		{"a line cut off", []piece{{"NOO", 0}}, `within the line "NOO"`, ""},
		{"a command behind STARTTLS", []piece{ehlo, {"STARTTLS\r\nNOOP\r\n", 1}}, `6 bytes behind STARTTLS`, "500 5.5.2"},
		{"a command behind EHLO", []piece{{"EHLO a\r\nNOOP\r\n", 1}}, "behind EHLO", "500 5.5.2"},
		{"a command behind QUIT", []piece{{"QUIT\r\nNOOP\r\n", 1}}, "behind QUIT", "500 5.5.2"},
		{"content before 354", []piece{ehlo, {"MAIL FROM:<>\r\nRCPT TO:<b@c.d>\r\nDATA\r\nhi\r\n.\r\n", 3}}, "behind DATA", "500 5.5.2"},
		{"BDAT without a number", []piece{ehlo, {"BDAT x\r\n", 1}}, "BDAT x", "500 5.5.2"},
		{"a parameter not offered", []piece{ehlo, {"MAIL FROM:<> BY=3\r\n", 1}, quit}, "BY was not offered", "555 5.5.4"},
		{"pipelining not offered", []piece{helo, {"MAIL FROM:<>\r\nRSET\r\n", 2}, quit}, "pipelined behind MAIL", "250 2.1.0"},
		{"BDAT not offered", []piece{helo, {"BDAT 4 LAST\r\nabcd", 1}, quit}, "BDAT was not offered", "502 5.5.1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, secure(t))
			client := greeted(t, s)
			for _, p := range c.pieces {
				if _, err := client.Write([]byte(p.send)); err != nil {
					t.Fatal(err)
				}
				for range p.replies {
					if _, err := client.ReadReply(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			record := ended(t, s)
			if got := strings.Join(record.Violations, "\n"); !strings.Contains(got, c.violation) {
				t.Errorf("violations %q, end %q", got, record.End)
			}
			if got := strings.Join(record.Replies, "\n"); !strings.Contains(got, c.reply) {
				t.Errorf("replies %q", got)
			}
			if len(record.Messages) > 0 {
				t.Error("a message was accepted")
			}
		})
	}
}

func TestASessionAnswersAsRFC5321Wants(t *testing.T) {
	const ehlo, mail, rcpt = "EHLO x", "MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>"
	cfg := secure(t)
	cfg.MaxSize = 1000
	dialogues := map[string][]struct{ command, code string }{
		"order": {
			{mail, "503"}, {rcpt, "503"}, {"DATA", "503"}, {ehlo, "250"}, {rcpt, "503"}, {mail, "250"}, {mail, "503"},
			{"DATA", "503"}, {"RSET", "250"}, {"DATA", "503"}, {mail, "250"}, {ehlo, "250"}, {rcpt, "503"},
		},
		"paths": {
			{ehlo, "250"}, {"MAIL FROM:a@b.c", "501"}, {"MAIL FROM: <a@b.c>", "501"}, {"MAIL TO:<a@b.c>", "501"},
			{"mail from:<>", "250"}, {"RCPT TO:<>", "501"}, {"rcpt to:<@r.x:a@b.c>", "250"}, {rcpt + "x", "501"},
			{"RCPT TO:<a", "501"}, {`RCPT TO:<"a\">b"@c.d>`, "250"}, {`RCPT TO:<"a>`, "501"},
		},
		"parameters": {
			{ehlo, "250"}, {mail + " SIZE=x", "501"}, {mail + " SIZE=1001", "552"}, {"MAIL FROM:<ä@b.c>", "553"},
			{mail + " BODY=8BITMIME RET=HDRS SIZE=9", "250"}, {"RCPT TO:<ä@b.c>", "553"}, {rcpt + " NOTIFY=NEVER", "250"},
		},
		"others": {
			{"NOOP", "250"}, {"HELP", "214"}, {"VRFY a", "252"}, {"EXPN a", "252"}, {"ETRN a", "250"}, {"XCLIENT a", "502"},
			{"TURN", "502"}, {"EHLO", "501"}, {ehlo, "250"}, {"STARTTLS x", "501"}, {"DATA x", "501"}, {"AUTH PLAIN", "502"},
		},
	}
	for name, dialogue := range dialogues {
		t.Run(name, func(t *testing.T) {
			c := greeted(t, serve(t, cfg))
			for _, step := range dialogue {
				reply, err := c.Command(step.command)
				if err != nil {
					t.Fatal(err)
				}
				if got := reply.String()[:3]; got != step.code {
					t.Errorf("%s: %s, want %s", step.command, reply, step.code)
				}
			}
		})
	}
}

func TestAServerThatGreetsWith554TakesNothingButQUIT(t *testing.T) {
	s := serve(t, ServerConfig{On: map[Stage]Action{AtBanner: Say("554 no service")}})
	c := NewClient(dial(t, s), 10*time.Second)
	for _, step := range []struct{ command, code string }{{"", "554"}, {"EHLO x", "503"}, {"QUIT", "221"}} {
		if step.command != "" {
			if _, err := c.Write([]byte(step.command + "\r\n")); err != nil {
				t.Fatal(err)
			}
		}
		if reply, err := c.ReadReply(); err != nil || !strings.HasPrefix(reply.String(), step.code) {
			t.Errorf("%s: %s, %v", step.command, reply, err)
		}
	}
}

func TestMailAboveTheSizeIsRefusedWhereverItIsSaid(t *testing.T) {
	cfg := ServerConfig{MaxSize: 10}
	for name, m := range map[string]Mail{
		"announced": {FromParams: "SIZE=11"}, "DATA": {}, "BDAT": {Chunk: 5},
	} {
		t.Run(name, func(t *testing.T) {
			m.From, m.To, m.Content = "a@b.test", []string{"c@d.test"}, []byte("123456789\r\n")
			d := Delivery{Mails: []Mail{m}, Timeout: 10 * time.Second}
			report := Deliver(dial(t, serve(t, cfg)), d)
			if report.Accepted(d) || report.Err != nil || !strings.Contains(transcript(report), "552 5.3.4") {
				t.Errorf("%v\n%s", report.Err, transcript(report))
			}
		})
	}
}

func TestUsersLogInByPLAINAndLOGIN(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	cases := []struct {
		name  string
		lines []string
		want  string
	}{
		{"PLAIN at once", []string{"AUTH PLAIN " + b64("\x00u\x00p")}, "235"},
		{"PLAIN when asked", []string{"AUTH plain", b64("\x00u\x00p")}, "235"},
		{"LOGIN", []string{"AUTH LOGIN", b64("u"), b64("p")}, "235"},
		{"LOGIN with the name at once", []string{"AUTH LOGIN " + b64("u"), b64("p")}, "235"},
		{"the wrong password", []string{"AUTH PLAIN " + b64("\x00u\x00q")}, "535"},
		{"nobody", []string{"AUTH PLAIN " + b64("\x00\x00")}, "535"},
		{"no base64", []string{"AUTH PLAIN ***"}, "501"},
		{"another mechanism", []string{"AUTH GSSAPI"}, "504"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, ServerConfig{Users: map[string]string{"u": "p"}})
			client := greeted(t, s)
			if _, err := client.Hello("EHLO", "a.test"); err != nil {
				t.Fatal(err)
			}
			if params, _ := client.Offers("AUTH"); params != "PLAIN LOGIN" {
				t.Fatalf("offered %q", params)
			}
			var reply Reply
			for _, line := range c.lines {
				var err error
				if reply, err = client.Command(line); err != nil {
					t.Fatal(err)
				}
			}
			if !strings.HasPrefix(reply.String(), c.want) {
				t.Errorf("%s", reply)
			}
			if _, err := client.Quit(); err != nil {
				t.Fatal(err)
			}
			tried := ended(t, s).Auth
			if (c.want[0] == '2') != (len(tried) == 1 && tried[0].OK && tried[0].User == "u" && tried[0].Password == "p") {
				t.Errorf("recorded %+v", tried)
			}
		})
	}
}

func TestAClientCertificateIsAskedForAndRecorded(t *testing.T) {
	cfg := secure(t)
	cfg.TLS.ClientAuth, cfg.TLS.ClientCAs = tls.RequireAndVerifyClientCert, pki(t).Pool()
	cert, err := pki(t).Issue(Leaf{Names: []string{"client.test"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	client := trusting(t)
	client.Certificates = []tls.Certificate{cert}
	s := serve(t, cfg)
	d := Delivery{STARTTLS: AlwaysTLS, TLS: client, Mails: []Mail{mail("hi\r\n")}, Timeout: 10 * time.Second}
	if report := Deliver(dial(t, s), d); !report.Accepted(d) {
		t.Fatalf("%v\n%s", report.Err, transcript(report))
	}
	if state := ended(t, s).TLS; state == nil || len(state.PeerCertificates) == 0 ||
		!state.PeerCertificates[0].Equal(cert.Leaf) {
		t.Error("the certificate is not on record")
	}
	bare := serve(t, cfg)
	d.TLS = trusting(t)
	if report := Deliver(dial(t, bare), d); report.Err == nil {
		t.Error("a client without a certificate got through")
	}
	if record := ended(t, bare); record.HandshakeErr == nil || record.TLS != nil {
		t.Errorf("%+v", record)
	}
}

func TestCapabilitiesDifferWithinTLSAndSTARTTLSCanBeHidden(t *testing.T) {
	cfg := secure(t)
	cfg.Capabilities, cfg.CapabilitiesTLS, cfg.HideSTARTTLS = []string{"XOUT"}, []string{"XIN a b"}, true
	c := greeted(t, serve(t, cfg))
	reply, err := c.Hello("EHLO", "a.test")
	if err != nil || reply.String() != "250-mx.test at your service\n250 XOUT" {
		t.Fatalf("%s, %v", reply, err)
	}
	if _, err := c.StartTLS(trusting(t)); err != nil {
		t.Fatal(err)
	}
	reply, err = c.Hello("EHLO", "a.test")
	if params, _ := c.Offers("xin"); err != nil || params != "a b" || len(reply.Lines) != 2 {
		t.Fatalf("%s, %v", reply, err)
	}
}

// OpenSSL is somebody else's client: it must find the server plausible.
func TestOpenSSLMailsThroughSTARTTLS(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatalf("this test needs the openssl program: %v", err)
	}
	root, err := pki(t).WriteRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, secure(t))
	cmd := exec.CommandContext(t.Context(), openssl, "s_client", "-starttls", "smtp", "-connect", s.Addr().String(),
		"-CAfile", root, "-verify_return_error", "-verify_hostname", "mx.test", "-quiet", "-crlf")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// EHLO must be answered before anything follows it.
	for _, text := range []string{"EHLO openssl.test\n", "MAIL FROM:<a@b.test>\nRCPT TO:<c@d.test>\nBDAT 4 LAST\nhi\nQUIT\n"} {
		if _, err := io.WriteString(in, text); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Wait(t.Context(), func(list []Session) bool {
			return len(list) == 1 && len(list[0].Hellos) == 2 && list[0].TLS != nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	record := ended(t, s)
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if len(record.Messages) != 1 || string(record.Messages[0].Content) != "hi\r\n" || len(record.Violations) > 0 {
		t.Errorf("%+v", record)
	}
}
