//go:build install

package installtest

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// finding is what "doctor --format json" prints of one.
type finding struct {
	Severity string   `json:"severity"`
	What     string   `json:"what"`
	Mend     []string `json:"mend"`
}

// doctor gives the findings that are problems or could not be looked at.
func (s *site) doctor() []finding {
	s.t.Helper()
	out, _ := s.try("postern", "doctor", "--format", "json") // exits 1 with a finding
	var result struct {
		Findings []finding `json:"findings"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	var serious []finding
	for _, f := range result.Findings {
		if f.Severity != "note" {
			serious = append(serious, f)
		}
	}
	return serious
}

func TestTheFirstStepsLeadToAGuardedEdgeAndTheDoctorBack(t *testing.T) {
	s := newSite(t, "bookworm")
	s.installOlder()
	must(t, s.net.Gateway.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), s.net.Server4))
	must(t, s.net.Gateway.AddRoute(netip.MustParsePrefix("::/0"), s.net.Server6))
	if out, err := s.try("postern", "init"); err == nil || !strings.Contains(out, "--force") {
		t.Errorf("a configuration was replaced without being asked: %v: %s", err, out)
	}
	t.Logf("%s", s.run("postern", "init", "--force"))
	if got := s.read("/etc/postern/postern.toml"); !strings.Contains(got, `interfaces = ["lan0"]`) {
		t.Errorf("%s", got)
	}
	s.run("postern", "check")
	s.start()
	s.guarded()
	if found := s.doctor(); len(found) > 0 {
		t.Errorf("on a sound machine: %+v", found)
	}
	for _, row := range []struct {
		name  string
		spoil func()
		about string
	}{
		{"forwarding is off", func() { must(t, s.net.Gateway.Sysctl("net.ipv4.ip_forward", "0")) }, "ip_forward"},
		{"the rules are gone", func() { s.run("nft", "flush", "ruleset") }, "postern"},
		{"a firewall drops", func() {
			s.run("sh", "-c", "nft add table inet fw && nft 'add chain inet fw in { type filter hook input priority 0; policy drop; }'")
		}, "inet fw"},
		{"the start limit is reached", func() {
			good := s.read("/etc/postern/postern.toml")
			s.write("/etc/postern/postern.toml", good+"\n[nonsense]\n", 0o640)
			s.run("systemctl", "stop", "postern.service")
			go s.send(s.net.Server4, 0, "waits")
			s.eventually("the socket is closed", time.Minute, func() bool { return s.isActive("postern.socket") == "failed" })
			s.write("/etc/postern/postern.toml", good, 0o640)
		}, "start"},
		{"everything is stopped", func() { s.stop() }, "nothing listens"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.spoil()
			found := s.doctor()
			about := false
			for _, f := range found {
				about = about || strings.Contains(strings.Join(append(f.Mend, f.What), " "), row.about)
			}
			if !about {
				t.Errorf("nothing about %q: %+v", row.about, found)
			}
			t.Logf("%+v", found)
			// As somebody who pastes what is printed. /proc/sys is read only inside.
			for _, f := range found {
				for _, command := range f.Mend {
					command, _, _ = strings.Cut(command, " #")
					if key, value, ok := strings.Cut(strings.TrimPrefix(command, "sysctl -w "), "="); ok && strings.HasPrefix(command, "sysctl") {
						must(t, s.net.Gateway.Sysctl(key, value))
					} else {
						s.run("sh", "-c", command)
					}
				}
			}
			if found := s.doctor(); len(found) > 0 {
				t.Errorf("after what it said to do: %+v", found)
			}
			s.guarded()
		})
	}
}

// A mail host takes its own outgoing mail; nothing else on it is touched.
func TestAMailHostsOwnMailIsTaken(t *testing.T) {
	s := newSite(t, "bookworm")
	s.installOlder()
	s.intercept = "method = \"redirect\"\ninterfaces = [\"lo\"]"
	s.configure("block", "")
	s.run("postern", "check")
	s.start()
	conversation := `exec 3<>/dev/tcp/203.0.113.2/25 || exit 1
say() { printf '%s\r\n' "$1" >&3; while read -r line <&3; do case $line in [0-9][0-9][0-9]-*) ;; *) break ;; esac; done; echo "$line"; }
read -r banner <&3
say 'EHLO mail.example'; say 'MAIL FROM:<a@hospital.example>'; say 'RCPT TO:<b@mx.test>'; say DATA; say 'own
.'; say QUIT`
	conversation = strings.Replace(conversation, "own\n.", "own'\"$(printf '\\r')\"'\n.", 1)
	out := s.run("bash", "-c", conversation)
	messages := s.servers[s.net.Server4].Messages()
	if len(messages) != 1 || !messages[0].TLS {
		t.Errorf("%d messages arrived: %+v\n%s", len(messages), messages, out)
	}
	s.stop()
	if out, err := s.try("bash", "-c", conversation); err == nil {
		t.Errorf("while Postern is stopped it went out: %s", out)
	}
	s.run("postern", "intercept", "down", "--linger", "0s")
	s.wantNoTrace()
}
