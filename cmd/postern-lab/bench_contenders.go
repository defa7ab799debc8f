package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// A contender is what stands between client and server.
type contender struct {
	name    string
	program string // "" where it needs none besides the lab's
	start   func(context.Context, *benchmark, setting) (*running, error)
}

// missing is the program that is not there; "" when all is.
func (c contender) missing() string {
	if c.program == "" {
		return ""
	}
	if _, err := exec.LookPath(c.program); err != nil {
		return c.program
	}
	return ""
}

// A running contender.
type running struct {
	setting
	rest time.Duration  // of idle sessions, before memory is looked at
	from netip.Addr     // who connects; zero: one of the intercepted clients
	to   netip.AddrPort // where it connects to
	pid  int            // 0: there is no process
	// family: what it starts counts as well
	family bool
	stop   func(context.Context) error
	log    string // where it writes records; "": nowhere
}

var contenders = []contender{
	{name: "direct", start: startDirect},
	{name: "floor", start: startFloor},
	{name: "Postern", start: startPostern},
	{name: "Postern on 1", start: startPosternOn1},
	{name: "Postern, 1,000 rules", start: func(ctx context.Context, b *benchmark, s setting) (*running, error) {
		s.rules = 1000
		return startPostern(ctx, b, s)
	}},
	{name: "stunnel", program: "stunnel4", start: startStunnel},
	{name: "Postfix", program: "/usr/sbin/postfix", start: startPostfix},
	{name: "haproxy", program: "haproxy", start: startHAProxy},
}

func (b *benchmark) target(s setting) netip.AddrPort {
	return netip.AddrPortFrom(s.server(), smtpPort)
}

// startDirect starts nothing: the client is one that is not intercepted.
func startDirect(ctx context.Context, b *benchmark, s setting) (*running, error) {
	if err := b.intercept(ctx, s); err != nil {
		return nil, err
	}
	return &running{setting: s, from: benchBypass, to: b.target(s), stop: func(context.Context) error { return nil }}, nil
}

// intercept puts the configuration and the interception in force.
func (b *benchmark) intercept(ctx context.Context, s setting) error {
	if err := b.lab.writeConfig(b.configuration(s)); err != nil {
		return err
	}
	_, err := b.lab.run(ctx, "intercept", "up")
	return err
}

func startPostern(ctx context.Context, b *benchmark, s setting) (*running, error) {
	if err := b.intercept(ctx, s); err != nil {
		return nil, err
	}
	d, err := startDaemon(ctx, b.lab.network.Gateway, b.lab.postern, b.lab.configPath())
	if err != nil {
		return nil, err
	}
	return &running{setting: s, to: b.target(s), pid: d.command.Process.Pid, stop: d.stop, log: b.logPath()}, nil
}

// startPosternOn1 lets it use one processor at a time.
func startPosternOn1(ctx context.Context, b *benchmark, s setting) (*running, error) {
	const key = "GOMAXPROCS"
	if err := os.Setenv(key, "1"); err != nil {
		return nil, err
	}
	defer os.Unsetenv(key)
	return startPostern(ctx, b, s)
}

func (b *benchmark) logPath() string { return filepath.Join(b.lab.dir, "postern.log") }

// floorCommand is the hidden subcommand by which the lab starts the floor relay.
const floorCommand = "floor"

// floor is that relay: its address, and the certificate that it shows.
func floor(args []string) error {
	var f proxytest.Floor
	if len(args) == 0 {
		return errors.New("floor: no address given")
	}
	if len(args) == 3 {
		cert, err := tls.LoadX509KeyPair(args[1], args[2])
		if err != nil {
			return err
		}
		f.Certificate = &cert
	}
	listener, err := proxytest.ListenFloor(args[0])
	if err != nil {
		return err
	}
	return f.Serve(listener)
}

func startFloor(ctx context.Context, b *benchmark, s setting) (*running, error) {
	if err := b.intercept(ctx, s); err != nil {
		return nil, err
	}
	args := []string{floorCommand, "127.0.0.1:2525"}
	if !s.clear {
		cert, key := b.edge(s.rsa)
		args = append(args, cert, key)
	}
	return b.launch(ctx, s, b.target(s), "/proc/self/exe", args...)
}

// launch starts a program on the gateway and waits until its port can be reached.
func (b *benchmark) launch(ctx context.Context, s setting, to netip.AddrPort, program string, args ...string) (*running, error) {
	gateway := b.lab.network.Gateway
	command := gateway.Command(ctx, program, args...)
	var said strings.Builder
	command.Stdout, command.Stderr = &said, &said
	if err := gateway.Start(command); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	r := &running{setting: s, to: to, pid: command.Process.Pid, stop: func(context.Context) error {
		err := command.Process.Kill()
		<-ended
		return err
	}}
	starting, enough := context.WithTimeout(ctx, patience)
	defer enough()
	for {
		conn, err := b.dial(starting, r, 0)
		if err == nil {
			_, err = proxytest.NewClient(conn, patience).ReadReply()
			err = errors.Join(err, conn.Close())
		}
		if err == nil {
			return r, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s: %w\n%s", program, err, said.String())
		case <-starting.Done():
			return nil, errors.Join(err, r.stop(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// configured writes the configuration of another's program.
func (b *benchmark) configured(name, text string) (string, error) {
	path := filepath.Join(b.lab.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// startStunnel has stunnel end the client's TLS and hand over to itself, which
// begins TLS to the server: it speaks the STARTTLS of SMTP on either side. It is
// not transparent: the client connects to it.
func startStunnel(ctx context.Context, b *benchmark, s setting) (*running, error) {
	cert, key := b.edge(s.rsa)
	to := netip.AddrPortFrom(benchIn, 2626)
	text := fmt.Sprintf("foreground = yes\npid =\ndebug = 3\n[out]\nclient = yes\nprotocol = smtp\nverifyChain = no\nconnect = %s\n", b.target(s))
	if s.clear {
		text += fmt.Sprintf("accept = %s\n", to)
	} else {
		text += fmt.Sprintf("accept = 127.0.0.1:2627\n[in]\nprotocol = smtp\naccept = %s\nconnect = 127.0.0.1:2627\ncert = %s\nkey = %s\n", to, cert, key)
	}
	path, err := b.configured("stunnel.conf", text)
	if err != nil {
		return nil, err
	}
	return b.launch(ctx, s, to, "stunnel4", path)
}

// startHAProxy has HAProxy pass octets through: it knows no STARTTLS, and so ends
// no TLS. It is what a proxy costs that does not look.
func startHAProxy(ctx context.Context, b *benchmark, s setting) (*running, error) {
	to := netip.AddrPortFrom(benchIn, 2628)
	path, err := b.configured("haproxy.cfg", fmt.Sprintf(`global
	maxconn 4000
defaults
	mode tcp
	timeout connect 10s
	timeout client 5m
	timeout server 5m
listen smtp
	bind %s
	server mx %s
`, to, b.target(s)))
	if err != nil {
		return nil, err
	}
	return b.launch(ctx, s, to, "haproxy", "-db", "-f", path)
}

// startPostfix has Postfix take messages and send them on. It is no proxy: it keeps
// each message, says that it has it, and delivers it then.
func startPostfix(_ context.Context, b *benchmark, s setting) (*running, error) {
	o := mta.Options{
		Name: "relay.hospital.example", Listen: []netip.Addr{benchIn}, TLS: mta.Encrypt,
		Routes: map[string]netip.AddrPort{"*": b.target(s)},
		Parameters: map[string]string{
			"mynetworks": "10.1.0.0/16", "smtpd_relay_restrictions": "permit_mynetworks, reject", "smtpd_recipient_restrictions": "permit_mynetworks, reject",
			"smtpd_client_connection_count_limit": "0", "smtpd_client_connection_rate_limit": "0",
			"smtp_destination_concurrency_limit": "50", "initial_destination_concurrency": "50", "default_process_limit": "200",
		},
	}
	if !s.clear {
		o.Certificate, o.Key = b.edge(s.rsa)
	}
	p, err := mta.StartPostfix(b.lab.network.Gateway, o)
	if err != nil {
		return nil, err
	}
	// Its own address is not intercepted.
	return &running{setting: s, to: netip.AddrPortFrom(benchIn, smtpPort), pid: p.PID(), family: true,
		stop: func(context.Context) error { return p.Stop() }}, nil
}

// familyTime is the processor time of a process, those that it started and theirs,
// whether they have ended or not, to a hundredth of a second (proc(5)).
func familyTime(root int) (sum time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	parents, times := map[int]int{}, map[int]time.Duration{}
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		_, fields, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(fields)
		if len(f) < 15 {
			continue // it has ended meanwhile
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parents[pid], _ = strconv.Atoi(f[1])
		for _, ticks := range f[11:15] { // utime, stime, and those of children that were waited for
			n, _ := strconv.Atoi(ticks)
			times[pid] += time.Duration(n) * 10 * time.Millisecond
		}
	}
	for pid, t := range times {
		for p := pid; p > 1; p = parents[p] {
			if p == root {
				sum += t
				break
			}
		}
	}
	return sum
}

// cpu is the processor time that the contender has had.
func (r *running) cpu() time.Duration {
	if r.pid == 0 {
		return 0
	}
	if r.family {
		return familyTime(r.pid)
	}
	// The clock of another process (clock_getcpuclockid(3)) counts threads that have
	// ended, and to the nanosecond, as /proc does not.
	const perProcess = 2
	var now unix.Timespec
	if unix.ClockGettime(int32(^r.pid)<<3|perProcess, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}
