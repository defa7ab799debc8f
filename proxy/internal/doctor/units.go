package doctor

import (
	"context"
	"fmt"
	"os"
	"strings"
)

func runsSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// unit is what systemd says of one, by property.
type unit map[string]string

// askUnits asks systemd for the package's units.
func (e *examination) askUnits(ctx context.Context) (map[string]unit, error) {
	said, err := e.systemctl(ctx, "show", "-p", "Id,LoadState,ActiveState,SubState,Result,NRestarts,UnitFileState,NeedDaemonReload",
		"postern.service", "postern.socket", "postern-intercept.service", "postern.target")
	if err != nil {
		return nil, fmt.Errorf("systemctl: %w", err)
	}
	return unitsOf(string(said)), nil
}

// units looks at what the package's units came to.
func units(_ context.Context, e *examination) ([]Finding, error) {
	if e.unitsErr != nil {
		return nil, e.unitsErr
	}
	service, socket := e.units["postern.service"], e.units["postern.socket"]
	intercept, target := e.units["postern-intercept.service"], e.units["postern.target"]
	var found []Finding
	if f, ok := startLimit(service, socket); ok {
		found = append(found, f)
	} else {
		for _, each := range []unit{socket, service} {
			if f, ok := failed(each, "Postern does not serve"); ok {
				found = append(found, f)
			}
		}
	}
	if f, ok := failed(intercept, "interception is not put in force"); ok {
		found = append(found, f)
	}
	if n := service["NRestarts"]; n != "" && n != "0" {
		found = append(found, Finding{Severity: Note, What: "systemd has restarted postern.service " + n + " times", Why: "it crashed, or was killed for not answering",
			Mend: []string{"journalctl -u postern.service # why; systemctl reset-failed postern.service counts anew"}})
	}
	if target["ActiveState"] == "active" && target["UnitFileState"] == "disabled" {
		found = append(found, Finding{Severity: Problem, What: "postern.target is started, and not enabled", Why: "after the next boot nothing is intercepted",
			Mend: []string{"systemctl enable postern.target"}})
	}
	for _, each := range []unit{service, socket, intercept, target} {
		if each["NeedDaemonReload"] == "yes" {
			found = append(found, Finding{Severity: Note, What: each["Id"] + " was changed since systemd read it", Why: "the change is not in force", Mend: []string{"systemctl daemon-reload"}})
		}
	}
	return found, nil
}

// unitsOf reads properties, a line each, with an empty line between units. One
// that is not installed is left out.
func unitsOf(said string) map[string]unit {
	all := map[string]unit{}
	for _, block := range strings.Split(said, "\n\n") {
		u := unit{}
		for _, line := range strings.Split(block, "\n") {
			if key, value, ok := strings.Cut(line, "="); ok {
				u[key] = value
			}
		}
		if u["Id"] != "" && u["LoadState"] != "not-found" {
			all[u["Id"]] = u
		}
	}
	return all
}

// wayBack is how systemd is told to start again what failed too often.
const wayBack = "systemctl reset-failed postern.service postern.socket && systemctl start postern.target"

// startLimit is the service that was started too often, after which systemd
// closes its socket too: when_down holds until somebody comes.
func startLimit(service, socket unit) (Finding, bool) {
	limited := service["ActiveState"] == "failed" && service["Result"] == "start-limit-hit" ||
		socket["ActiveState"] == "failed" && (socket["Result"] == "service-start-limit-hit" || socket["Result"] == "trigger-limit-hit")
	return Finding{Severity: Problem, What: "postern.service failed so often that systemd starts it no more, and closed its socket",
		Why: "when_down holds until it is started by hand",
		Mend: []string{"journalctl -u postern.service -n 50 # why it failed: mend that first; postern check says what of the configuration is at fault",
			wayBack}}, limited
}

func failed(u unit, why string) (Finding, bool) {
	return Finding{Severity: Problem, What: fmt.Sprintf("%s failed (%s)", u["Id"], u["Result"]), Why: why,
		Mend: []string{fmt.Sprintf("journalctl -u %s -n 50 # why", u["Id"]), "systemctl reset-failed " + u["Id"] + " && systemctl restart " + u["Id"]}}, u["ActiveState"] == "failed"
}
