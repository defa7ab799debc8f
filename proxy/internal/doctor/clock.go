package doctor

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// clock asks the kernel whether anybody sets it right. Dates decide whether
// certificates are valid, and what records are worth as evidence.
func clock(_ context.Context, e *examination) ([]Finding, error) {
	const why = "certificates are held against a wrong date, and records are no evidence"
	mend := []string{"timedatectl set-ntp true # or install chrony"}
	if !e.Built.IsZero() && e.now.Before(e.Built) {
		return []Finding{{Severity: Problem, What: fmt.Sprintf("the clock says %s, which is before this program was built", e.now.UTC().Format(time.RFC3339)),
			Why: why, Mend: mend}}, nil
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return nil, fmt.Errorf("adjtimex: %w", err)
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return []Finding{{Severity: Note, What: "nothing keeps the clock of this machine (the kernel calls it unsynchronised)", Why: why, Mend: mend}}, nil
	}
	return nil, nil
}
