package dnslab

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const unbound = "/usr/sbin/unbound"

// What no zone of the lab holds is answered by the local zone ".", so that nothing
// is ever asked outside. Names that Unbound would answer itself (test, invalid,
// localhost) come from the lab's zones where it has some.
const unboundConfiguration = `server:
  directory: "%[1]s"
  interface: %[2]s@%[3]d
  port: %[3]d
  do-ip6: %[4]s
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  log-time-ascii: yes
  val-log-level: 2
  num-threads: 1
  msg-cache-size: 1m
  rrset-cache-size: 1m
  outgoing-range: 256
  num-queries-per-thread: 128
  so-rcvbuf: 0
  module-config: "validator iterator"
  do-not-query-localhost: no
  trust-anchor-signaling: no
  root-key-sentinel: no
  harden-glue: yes
  harden-dnssec-stripped: yes
  harden-below-nxdomain: yes
  minimal-responses: yes
  rrset-roundrobin: no
  ede: yes
  val-bogus-ttl: 1
  infra-host-ttl: 1
  local-zone: "." static
`

// writeUnbound writes the resolver's configuration.
func (l *Lab) writeUnbound() error {
	var conf strings.Builder
	ip6 := "no"
	if l.resolver.Addr().Is6() {
		ip6 = "yes"
	}
	fmt.Fprintf(&conf, unboundConfiguration, l.dir, l.resolver.Addr(), l.resolver.Port(), ip6)
	for _, z := range l.zones {
		fmt.Fprintf(&conf, "  local-zone: %q transparent\n", z.Name+".")
		if z.anchor != "" {
			fmt.Fprintf(&conf, "  trust-anchor: %q\n", z.anchor)
		} else {
			fmt.Fprintf(&conf, "  domain-insecure: %q\n", z.Name)
		}
	}
	fmt.Fprintf(&conf, "remote-control:\n  control-enable: yes\n  control-interface: %q\n  control-use-cert: no\n", l.control())
	for _, z := range l.zones {
		at := l.server
		if z.Dead {
			at = l.dead
		}
		fmt.Fprintf(&conf, "stub-zone:\n  name: %q\n  stub-addr: %s@%d\n", z.Name, at.Addr(), at.Port())
	}
	return os.WriteFile(filepath.Join(l.dir, "unbound.conf"), []byte(conf.String()), 0o600)
}

func (l *Lab) control() string { return filepath.Join(l.dir, "control") }

// startUnbound starts the resolver and waits until it answers. What is started is a
// copy: Debian's AppArmor profile of Unbound goes by its path, and lets that one
// read its configuration in /etc alone. The copy is made by another process, for a
// file that this one has open for writing could not be executed while some other
// test starts a program.
func (l *Lab) startUnbound() (err error) {
	own := filepath.Join(l.dir, "unbound")
	if _, err := os.Stat(own); err != nil {
		if said, err := exec.Command("cp", unbound, own).CombinedOutput(); err != nil {
			return fmt.Errorf("copy of unbound: %w\n%s", err, said)
		}
	}
	if l.unbound, err = l.start("unbound.log", own, "-d", "-c", filepath.Join(l.dir, "unbound.conf")); err != nil {
		return err
	}
	return l.await(l.unbound, l.resolver, "nowhere.invalid", isAnswer)
}

// forget makes the resolver forget a zone, and that its server was away.
func (l *Lab) forget(zone string) error {
	for _, command := range []string{"flush_zone " + zone, "flush_bogus", "flush_negative", "flush_infra all"} {
		if err := l.command(command); err != nil {
			return fmt.Errorf("unbound: %s: %w", command, err)
		}
	}
	return nil
}

// command says one line to the resolver's control socket, as unbound-control does.
func (l *Lab) command(line string) error {
	conn, err := net.DialTimeout("unix", l.control(), patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "UBCT1 %s\n", line); err != nil {
		return err
	}
	reply, err := io.ReadAll(conn)
	if err == nil && !strings.HasPrefix(string(reply), "ok") {
		err = fmt.Errorf("%q", reply)
	}
	return err
}
