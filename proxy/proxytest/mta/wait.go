package mta

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// pollInterval is how often files and queue are looked at. Mail servers tell
// nobody when something happens, they write it down.
const pollInterval = 20 * time.Millisecond

// wait asks until the answer is yes, something fails, the context ends or
// the server does.
func (s *server) wait(ctx context.Context, what string, yes func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		// Looked at before asking, so that the last thing it did is seen.
		gone := false
		select {
		case <-s.ended:
			gone = true
		default:
		}
		if ok, err := yes(); ok || err != nil {
			return err
		}
		if gone {
			return fmt.Errorf("mta: waiting for %s: %s ended: %v", what, s.program, s.err)
		}
		select {
		case <-ticker.C:
		case <-s.ended:
		case <-ctx.Done():
			return fmt.Errorf("mta: waiting for %s: %w", what, ctx.Err())
		}
	}
}

// waitListening waits until the server lets itself be called at all addresses.
func (s *server) waitListening(ctx context.Context, addresses []netip.Addr) error {
	for _, address := range addresses {
		at := netip.AddrPortFrom(address, 25)
		err := s.wait(ctx, "it listens at "+at.String(), func() (bool, error) {
			conn, err := s.host.Dial(ctx, netip.AddrPort{}, at)
			if err != nil {
				return false, nil
			}
			return true, conn.Close()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
