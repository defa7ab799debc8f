package mta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/proxy/proxytest"
)

// capNetRaw is all that "postern run" may have (capabilities(7)).
const capNetRaw = 13

// binaryVariable names a postern that is built already, for a run of these tests
// that has no compiler.
const binaryVariable = "POSTERN_MTA_TEST_BINARY"

// build makes the real program, once, for everybody to execute.
var build = sync.OnceValues(func() (string, error) {
	if built := os.Getenv(binaryVariable); built != "" {
		return built, nil
	}
	command := exec.Command("go", "build", "-o", binaryPath(), "postern/cmd/postern")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return binaryPath(), lookAtSources()
})

// lookAtSources has "go test" notice that these tests depend on the program that
// they build: it runs them again, instead of remembering that they passed, when a
// file has changed that they looked at.
func lookAtSources() error {
	out, err := exec.Command("go", "list", "-deps", "-f",
		"{{if .Module}}{{if .Module.Main}}{{range .GoFiles}}{{$.Dir}}/{{.}}\n{{end}}{{end}}{{end}}", "postern/cmd/postern").Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	for _, path := range strings.Fields(string(out)) {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	return nil
}

// binaryPath lies on the lab's own /run, which is gone with the lab.
func binaryPath() string { return "/run/postern-under-test" }

// postern is the real program in the gateway, as an ordinary user with the
// capability that it needs, and with the interception that root put in force.
type postern struct {
	t       *testing.T
	site    *site
	binary  string
	dir     string // its log and key
	config  string
	uid     int
	taking  string // keys of [intercept]
	needs   []uintptr
	sockets []*os.File // that it inherits; none: it listens by itself
	roots   string     // a file in the place of the system's roots, if given
	command *exec.Cmd
	ended   chan struct{}
	stderr  bytes.Buffer
}

// guard puts Postern into the gateway, with these rules.
func (s *site) guard(rules string) *postern {
	s.t.Helper()
	return s.guardTaking("method = \"tproxy\"\ninterfaces = [\"lan0\"]", rules, capNetRaw)
}

// guardTaking is guard with another [intercept] and the capabilities for it.
func (s *site) guardTaking(taking, rules string, needs ...uintptr) *postern {
	s.t.Helper()
	binary, err := build()
	must(s.t, err)
	uid := nobody(s.t)
	p := &postern{t: s.t, site: s, binary: binary, uid: uid, dir: filepath.Join(s.dir, "postern"), taking: taking, needs: needs, roots: s.system}
	must(s.t, os.Mkdir(p.dir, 0o755))
	must(s.t, os.Chown(p.dir, uid, uid))
	p.config = filepath.Join(s.dir, "postern.toml")
	s.certificate(s.pki, "edge", proxytest.Leaf{Names: []string{receiverName, "edge.hospital.example"}}, uid)
	p.configure(rules)
	up := s.net.Gateway.Command(within(s.t, patience), binary, "intercept", "up", "--config", p.config)
	out, err := output(up, s.net.Gateway.Run)
	if err != nil {
		s.t.Fatalf("intercept up: %v: %s", err, out)
	}
	s.t.Cleanup(p.stop)
	p.start()
	return p
}

// nobody is whom Postern runs as.
func nobody(t *testing.T) int {
	t.Helper()
	who, err := user.Lookup("nobody")
	must(t, err)
	uid, err := strconv.Atoi(who.Uid)
	must(t, err)
	return uid
}

func output(command *exec.Cmd, run func(*exec.Cmd) error) (string, error) {
	var both bytes.Buffer
	command.Stdout, command.Stderr = &both, &both
	err := run(command)
	return both.String(), err
}

// configure writes the configuration; a running Postern has not read it yet.
func (p *postern) configure(rules string) {
	p.t.Helper()
	text := fmt.Sprintf(`
[intercept]
%[4]s
[[tls.certificate]]
name = "edge"
cert = "%[1]s/edge.pem"
key = "%[1]s/edge.key"
[tls.trust]
ca = "%[1]s/root.pem"
[log]
output = "%[2]s"
%[3]s`, p.site.dir, p.log(), rules, p.taking)
	must(p.t, os.WriteFile(p.config, []byte(text), 0o644))
}

func (p *postern) log() string { return filepath.Join(p.dir, "postern.log") }

// start runs Postern and waits until it serves.
func (p *postern) start() {
	p.t.Helper()
	before := len(p.lines("started"))
	program := []string{p.binary, "run", "--config", p.config}
	if len(p.sockets) > 0 {
		// Who they are for is known once that one runs (LISTEN_PID).
		program = append([]string{"/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, program...)
	}
	p.command = p.site.net.Gateway.Command(context.Background(), program[0], program[1:]...)
	p.command.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.uid)}
	p.command.SysProcAttr.AmbientCaps = p.needs
	p.command.Dir = "/"
	if len(p.sockets) > 0 {
		p.command.ExtraFiles = p.sockets // from descriptor 3 on, as sd_listen_fds(3) has it
		p.command.Env = append(p.command.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(p.sockets)))
	}
	if p.roots != "" {
		p.command.Env = append(p.command.Environ(), "SSL_CERT_FILE="+p.roots)
	}
	p.command.Stderr = &p.stderr
	must(p.t, p.site.net.Gateway.Start(p.command))
	p.ended = make(chan struct{})
	go func(command *exec.Cmd, ended chan struct{}) {
		_ = command.Wait() // its ProcessState says how it went
		close(ended)
	}(p.command, p.ended)
	p.wait("its start", func() bool { return len(p.lines("started")) > before })
}

// kill ends Postern without any warning.
func (p *postern) kill() {
	p.t.Helper()
	must(p.t, p.command.Process.Kill())
	<-p.ended
}

// stop ends Postern in the orderly way, which must be the reason it ends for.
func (p *postern) stop() {
	if p.command == nil {
		return
	}
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Errorf("stopping postern: %v", err)
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Error("postern does not end")
		_ = p.command.Process.Kill() // it is lost anyway
		<-p.ended
	}
	if code := p.command.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("postern ended with %d: %s", code, p.stderr.String())
	}
	if p.t.Failed() {
		text, err := os.ReadFile(p.log())
		p.t.Logf("postern logged (%v):\n%s", err, text)
	}
}

// reload puts other rules in force.
func (p *postern) reload(rules string) {
	p.t.Helper()
	p.configure(rules)
	before := len(p.lines("reloaded"))
	must(p.t, p.command.Process.Signal(syscall.SIGHUP))
	p.wait("the reload", func() bool { return len(p.lines("reloaded")) > before })
}

// wait looks again and again, for a log is a file; Postern's end ends it.
func (p *postern) wait(what string, yes func() bool) {
	p.t.Helper()
	ctx := within(p.t, patience)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !yes() {
		select {
		case <-ticker.C:
		case <-p.ended:
			if !yes() {
				p.t.Fatalf("postern ended before %s: %s", what, p.stderr.String())
			}
			return
		case <-ctx.Done():
			p.t.Fatalf("postern: waiting for %s: %v", what, ctx.Err())
		}
	}
}

// lines returns the lines of the log with this message.
func (p *postern) lines(message string) []string {
	p.t.Helper()
	text, err := os.ReadFile(p.log())
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		var head struct {
			Message string `json:"msg"`
		}
		// The last line may not be whole yet.
		if json.Unmarshal([]byte(line), &head) == nil && head.Message == message {
			found = append(found, line)
		}
	}
	return found
}

// conversation is what these tests look at of a session record.
type conversation struct {
	Session   string `json:"session"`
	Rule      string `json:"rule"`
	Verdict   string `json:"verdict"`
	Reason    string `json:"reason"`
	Detail    string `json:"detail"`
	TLS       string `json:"tls"`
	End       string `json:"end"`
	Client    peer   `json:"client"`
	Interface string `json:"interface"`
	Upstream  peer   `json:"upstream"`

	ClientTLS   legTLS `json:"client_tls"`
	UpstreamTLS legTLS `json:"upstream_tls"`

	Transactions []struct {
		MailDomain  string   `json:"mail_domain"`
		RcptDomains []string `json:"rcpt_domains"`
		Accepted    int      `json:"accepted"`
		Refused     []struct {
			Domain string `json:"domain"`
			Rule   string `json:"rule"`
			Reason string `json:"reason"`
		} `json:"refused"`
		Bytes int64  `json:"bytes"`
		Reply string `json:"reply"`
	} `json:"transactions"`
}

type peer struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	Helo    string `json:"helo"`
	Banner  string `json:"banner"`
}

type legTLS struct {
	State           string   `json:"state"`
	Version         string   `json:"version"`
	Cipher          string   `json:"cipher"`
	ForwardSecrecy  bool     `json:"forward_secrecy"`
	Verified        bool     `json:"verified"`
	OfferedVersions []string `json:"offered_versions"`
	Failure         string   `json:"failure"`
	SNI             string   `json:"sni"`
	DANE            string   `json:"dane"`
	MTASTS          string   `json:"mta_sts"`
	Revocation      string   `json:"revocation"`
	Certificate     struct {
		Subject string   `json:"subject"`
		Names   []string `json:"names"`
		Chain   []string `json:"chain"`
	} `json:"certificate"`
}

// records waits until n sessions are recorded, and wants no more.
func (p *postern) records(n int) []conversation {
	p.t.Helper()
	p.wait(fmt.Sprintf("%d records", n), func() bool { return len(p.lines("session")) >= n })
	lines := p.lines("session")
	if len(lines) != n {
		p.t.Fatalf("%d sessions are recorded, want %d:\n%s", len(lines), n, strings.Join(lines, ""))
	}
	all := make([]conversation, n)
	for i, line := range lines {
		must(p.t, json.Unmarshal([]byte(line), &all[i]))
	}
	return all
}
