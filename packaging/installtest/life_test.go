//go:build install

package installtest

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"
)

func digest(content []byte) []byte { sum := sha256.Sum256(content); return sum[:8] }

func TestAnUpgradeUnderLoadRefusesNoConnection(t *testing.T) {
	s := newSite(t, "bookworm")
	older, newer := packages(t, "deb")
	s.install(older)
	s.configure("block", "")
	s.start()
	before, socket := s.run("postern", "version"), s.property("postern.socket", "ActiveEnterTimestampMonotonic")
	pid := s.property("postern.service", "MainPID")
	l := s.load(4)
	time.Sleep(time.Second) // of load
	s.install(newer)
	time.Sleep(time.Second)
	l.end()
	if after := s.run("postern", "version"); after == before {
		t.Errorf("still %s", after)
	}
	if now := s.property("postern.service", "MainPID"); now == pid || now == "0" {
		t.Errorf("process %s before, %s after", pid, now)
	}
	if now := s.property("postern.socket", "ActiveEnterTimestampMonotonic"); now != socket {
		t.Errorf("the socket was opened at %s, and again at %s", socket, now)
	}
	if got := s.isActive(units...); got != "active active active active active" {
		t.Errorf("after the upgrade: %s", got)
	}
	// The administrator's configuration is not asked about, and stays.
	s.guarded()

	s.stop()
	s.install(older) // a downgrade
	if got := s.isActive(units...); got != "inactive inactive inactive inactive inactive" {
		t.Errorf("what was stopped is %s", got)
	}
}

func TestCrashesAndReloadsUnderLoadRefuseNoConnection(t *testing.T) {
	s := newSite(t, "bookworm")
	s.installOlder()
	s.configure("block", "")
	// Fewer than would be the limit of starts.
	s.start()
	l := s.load(4)
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		s.run("systemctl", "reload", "postern.service")
		s.run("kill", "-KILL", s.property("postern.service", "MainPID"))
		s.eventually("it runs again", 10*time.Second, func() bool { return s.isActive("postern.service") == "active" })
	}
	l.end()
	if n := s.property("postern.service", "NRestarts"); n != "3" {
		t.Errorf("%s restarts", n)
	}
	s.guarded()

	good := s.read("/etc/postern/postern.toml")
	s.write("/etc/postern/postern.toml", good+"\n[nonsense]\n", 0o640)
	out, err := s.try("systemctl", "reload", "postern.service")
	if err == nil {
		t.Errorf("a reload of nonsense succeeded: %s", out)
	}
	if status := s.run("systemctl", "status", "postern.service"); !strings.Contains(status, "nonsense") {
		t.Errorf("the status does not say why:\n%s", status)
	}
	s.guarded()
	// A reload that is not asked of systemd says it in the status.
	s.run("kill", "-HUP", s.property("postern.service", "MainPID"))
	s.eventually("the status says so", 5*time.Second, func() bool {
		return strings.Contains(s.property("postern.service", "StatusText"), "reload failed")
	})
	s.guarded()
}

func TestAHungDaemonIsEndedAndConnectionsWait(t *testing.T) {
	s := newSite(t, "bookworm")
	s.installOlder()
	s.configure("block", "")
	s.write("/etc/systemd/system/postern.service.d/soon.conf", "[Service]\nWatchdogSec=2\n", 0o644)
	s.run("systemctl", "daemon-reload")
	s.start()
	pid := s.property("postern.service", "MainPID")
	s.run("kill", "-STOP", pid)
	// What it had accepted ends with it; what waits is served by the next.
	for to := range s.servers {
		if f := s.send(to, 0, "hung"); f.refused || f.direct {
			t.Errorf("to %s: %+v", to, f)
		}
	}
	s.guarded()
	if now := s.property("postern.service", "MainPID"); now == pid {
		t.Error("it was not ended")
	}
	// Nor is one waited for that does not even hear the watchdog's signal, as long
	// as one that stops.
	if limit := s.property("postern.service", "TimeoutAbortUSec"); limit != "15s" {
		t.Errorf("it would have %s", limit)
	}
}

func TestAfterARebootTheEdgeIsGuardedBeforeTheNetworkIsUp(t *testing.T) {
	s := newSite(t, "bookworm")
	s.installOlder()
	s.configure("block", "")
	s.run("systemctl", "enable", "systemd-networkd.service") // manages nothing here, but is a network
	s.run("systemctl", "mask", "systemd-networkd-wait-online.service")
	s.start()
	s.guarded()
	for _, how := range []func(){s.shutdown, s.off} {
		how()
		// What is blocked stays blocked until the network is gone.
		if journal := s.journalOnDisk(); strings.Contains(journal, "Stopping postern-intercept.service") {
			t.Errorf("interception was taken out before the machine was off:\n%s", journal)
		}
		s.connect()
		s.boot(s.net.Gateway)
		s.eventually("all has started", 20*time.Second, func() bool {
			return s.isActive(units...) == "active active active active active"
		})
		s.guarded()
		// Values of one clock, in microseconds.
		order := []string{}
		for _, unit := range []string{"postern-intercept.service", "network-pre.target", "network.target"} {
			order = append(order, fmt.Sprintf("%15s", s.property(unit, "ActiveEnterTimestampMonotonic")))
		}
		if order[0] > order[1] || order[1] > order[2] {
			t.Errorf("interception, network-pre.target and network.target at %q", order)
		}
		if out, err := s.try("postern", "intercept", "show"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// A restart or a reload of nftables begins with an empty rule set, and neither it
// nor the machine's shutdown waits for what Postern carried.
func TestInterceptionComesBackAtOnceWhenNftablesIsRestarted(t *testing.T) {
	for _, word := range []string{"block", "pass"} {
		t.Run(word, func(t *testing.T) {
			s := newSite(t, "bookworm")
			s.installOlder()
			s.configure(word, "")
			s.run("systemctl", "enable", "--now", "nftables.service")
			s.start()
			s.guarded()
			s.use() // in TIME_WAIT, for a minute
			const most = 20 * time.Second
			for _, verb := range []string{"restart", "reload"} {
				began := time.Now()
				s.run("systemctl", verb, "nftables.service")
				s.eventually("interception is back after a "+verb, most-time.Since(began), func() bool {
					_, err := s.try("postern", "intercept", "show")
					return err == nil
				})
				s.guarded()
			}
			s.run("systemctl", "stop", "nftables.service")
			s.run("systemctl", "start", "nftables.service", "postern.target") // as the manual says
			s.guarded()
			began := time.Now()
			s.shutdown()
			if took := time.Since(began); took > most {
				t.Errorf("the machine took %v to shut down", took)
			}
		})
	}
}

// What the new program cannot start with would leave nobody listening.
func TestAnUpgradeLeavesTheOldProgramWhereTheConfigurationIsAtFault(t *testing.T) {
	for _, row := range []struct {
		kind    string
		install []string
	}{{"deb", []string{"dpkg", "-i"}}, {"rpm", []string{"rpm", "--force-debian", "--nodeps", "-U"}}} {
		t.Run(row.kind, func(t *testing.T) {
			s := newSite(t, "bookworm")
			older, newer := packages(t, row.kind)
			s.run(row.install[0], append(row.install[1:], s.bring(older))...)
			s.configure("block", "")
			s.start()
			s.guarded()
			pid, good := s.property("postern.service", "MainPID"), s.read("/etc/postern/postern.toml")
			s.write("/etc/postern/postern.toml", good+"\n[nonsense]\n", 0o640)
			out := s.run(row.install[0], append(row.install[1:], s.bring(newer))...)
			if !strings.Contains(out, "nonsense") || !strings.Contains(out, "the old program goes on") {
				t.Errorf("it is not said: %s", out)
			}
			s.guarded()
			if now := s.property("postern.service", "MainPID"); now != pid {
				t.Errorf("process %s before, %s after", pid, now)
			}
			s.write("/etc/postern/postern.toml", good, 0o640)
			s.run("systemctl", "restart", "postern.service")
			s.guarded()
		})
	}
}

// Whatever became of the configuration meanwhile, what was guarded stays so.
func TestARebootWithABrokenConfigurationIsGuardedByTheLastGoodOne(t *testing.T) {
	s := newSite(t, "bookworm")
	s.installOlder()
	s.configure("block", "")
	s.start()
	s.guarded()
	good := s.read("/etc/postern/postern.toml")
	s.write("/etc/postern/postern.toml", good+"\n[nonsense]\n", 0o640)
	s.shutdown()
	s.connect()
	s.boot(s.net.Gateway)
	s.eventually("the socket is closed", patience, func() bool { return s.isActive("postern.socket") == "failed" })
	s.blocked()
	if out, _ := s.try("systemctl", "status", "--no-pager", "postern-intercept.service"); !strings.Contains(out, "as it was the last time") {
		t.Errorf("%s", out)
	}
	s.write("/etc/postern/postern.toml", good, 0o640)
	s.run("systemctl", "reset-failed", "postern.service", "postern.socket")
	s.run("systemctl", "start", "postern.target")
	s.guarded()
}
