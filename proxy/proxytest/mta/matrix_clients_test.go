package mta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"postern/proxy/proxytest/mta"
)

// session is what a client without a queue is told to do, in JSON for scripts.
type session struct {
	Server  string `json:"server"`
	Helo    string `json:"helo"`
	TLS     bool   `json:"tls"`
	Name    string `json:"name"`  // that the certificate must have
	Roots   string `json:"roots"` // to verify it by
	Timeout int    `json:"timeout"`
	Module  string `json:"module"` // nodemailer's
	Mails   []mail `json:"mails"`
}

type mail struct {
	From string `json:"from"`
	To   string `json:"to"`
	File string `json:"file"`
	UTF8 bool   `json:"utf8"`
}

// commandClient is a program that delivers at once, or fails.
type commandClient struct {
	name  string
	utf8  bool   // knows SMTPUTF8
	many  bool   // sends several messages in a session
	lacks string // what else it cannot do
	needs string // a program, or a file
	// command is for one session; input may be nil.
	command func(session) (args []string, input io.Reader)
}

// commandClients are all of them. Each verifies the certificate, and its name
// where it can.
func commandClients() []commandClient {
	return []commandClient{
		{name: "swaks", needs: "swaks", lacks: "SMTPUTF8, several messages in a session", command: swaks},
		{name: "msmtp", needs: "msmtp", lacks: "SMTPUTF8, several messages in a session", command: msmtp},
		{name: "curl", needs: "curl", utf8: true, many: true, command: curl},
		{name: "smtplib", needs: "python3", utf8: true, many: true, command: func(s session) ([]string, io.Reader) {
			return []string{systemPython(), "testdata/smtplib_session.py"}, asJSON(s)
		}},
		{name: "nodemailer", needs: nodemailerModule(), utf8: true, many: true, command: func(s session) ([]string, io.Reader) {
			s.Module = nodemailerModule()
			return []string{"node", "testdata/nodemailer_session.js"}, asJSON(s)
		}},
	}
}

// nodemailerModule is where ".ci/unpack" puts it.
func nodemailerModule() string {
	directory, err := filepath.Abs(filepath.Join(unpacked, "nodemailer", "node_modules", "nodemailer"))
	if err != nil {
		panic(err) // there is no working directory
	}
	return directory
}

// systemPython prefers the system's, which is there where a user has another.
func systemPython() string {
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	return "python3"
}

// missing says that a client is not there.
func (c commandClient) missing() error {
	if _, err := exec.LookPath(c.needs); err == nil {
		return nil
	}
	if _, err := os.Stat(c.needs); err != nil {
		return &mta.MissingError{What: c.name, Advice: "have .ci/test install it", Err: err}
	}
	return nil
}

func asJSON(s session) io.Reader {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // it has strings and numbers only
	}
	return bytes.NewReader(text)
}

func swaks(s session) ([]string, io.Reader) {
	args := []string{"swaks", "--silent", "2", "--server", s.Server, "--port", "25", "--helo", s.Helo, "--timeout", fmt.Sprint(s.Timeout),
		"--from", s.Mails[0].From, "--to", s.Mails[0].To, "--data", "-"}
	if s.TLS {
		args = append(args, "--tls", "--tls-verify", "--tls-ca-path", s.Roots)
	}
	content, err := os.ReadFile(s.Mails[0].File)
	if err != nil {
		return []string{"false"}, nil
	}
	// It ends the last line, also one that has ended.
	return args, bytes.NewReader(bytes.TrimSuffix(content, []byte("\r\n")))
}

func msmtp(s session) ([]string, io.Reader) {
	args := []string{"msmtp", "--file=/dev/null", "--host=" + s.Server, "--port=25", "--domain=" + s.Helo,
		"--timeout=" + fmt.Sprint(s.Timeout), "--from=" + s.Mails[0].From, "--set-date-header=off", "--set-from-header=off", "--set-msgid-header=off"}
	if s.TLS {
		args = append(args, "--tls=on", "--tls-starttls=on", "--tls-trust-file="+s.Roots, "--tls-host-override="+s.Name)
	} else {
		args = append(args, "--tls=off")
	}
	// It ends lines itself.
	content, err := os.ReadFile(s.Mails[0].File)
	if err != nil {
		return []string{"false"}, nil
	}
	return append(args, "--", s.Mails[0].To), bytes.NewReader(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")))
}

func curl(s session) ([]string, io.Reader) {
	address := s.Server
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	args := []string{"curl"}
	for i, m := range s.Mails {
		if i > 0 {
			args = append(args, "--next")
		}
		args = append(args, "--silent", "--show-error", "--disable-eprt", "--max-time", fmt.Sprint(s.Timeout), "--cacert", s.Roots,
			"--connect-to", "::"+address+":25", "--mail-from", m.From, "--mail-rcpt", m.To, "--upload-file", m.File)
		if s.TLS {
			args = append(args, "--ssl-reqd")
		}
		args = append(args, "smtp://"+s.Name+":25/"+s.Helo)
	}
	return args, nil
}

// run has a client do a session from the client host.
func (c commandClient) run(ctx context.Context, s *site, to netip.Addr, helo string, tls bool, mails []mail) error {
	args, input := c.command(session{Server: to.String(), Helo: helo, TLS: tls, Name: receiverName, Roots: s.roots(),
		Timeout: int(matrixPatience.Seconds()), Mails: mails})
	command := s.net.Client.Command(ctx, args[0], args[1:]...)
	command.Stdin = input
	command.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := output(command, s.net.Client.Run); err != nil {
		return fmt.Errorf("%s: %w: %s", c.name, err, out)
	}
	return nil
}

// sessions are the messages in as few sessions as the client can.
func (c commandClient) sessions(mails []mail) [][]mail {
	if c.many {
		return [][]mail{mails}
	}
	var each [][]mail
	for _, m := range mails {
		each = append(each, []mail{m})
	}
	return each
}
