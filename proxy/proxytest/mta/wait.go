package mta

import (
	"context"
	"fmt"
	"time"
)

// pollInterval is how often files and queue are looked at. Postfix tells nobody
// when something happens, it writes it down.
const pollInterval = 20 * time.Millisecond

// wait asks until the answer is yes, something fails, the context ends or
// Postfix does.
func (p *Postfix) wait(ctx context.Context, what string, yes func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		// Looked at before asking, so that the last thing it did is seen.
		gone := false
		select {
		case <-p.ended:
			gone = true
		default:
		}
		if ok, err := yes(); ok || err != nil {
			return err
		}
		if gone {
			return fmt.Errorf("mta: waiting for %s: postfix ended: %v", what, p.err)
		}
		select {
		case <-ticker.C:
		case <-p.ended:
		case <-ctx.Done():
			return fmt.Errorf("mta: waiting for %s: %w", what, ctx.Err())
		}
	}
}
