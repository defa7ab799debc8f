package doctor

import (
	"context"
	"fmt"
)

// Shared is the server where gateways keep what they learn. The zero Shared is none.
type Shared struct {
	Name string // without a password
	// Ask connects and says what is wrong, within some seconds.
	Ask func(context.Context) error
}

// sharedMemory asks as whoever runs this; a file of a password that the service may
// not read is told of by the service.
func sharedMemory(ctx context.Context, e *examination) ([]Finding, error) {
	if e.Shared.Ask == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := e.Shared.Ask(ctx)
	if err == nil {
		return nil, nil
	}
	return []Finding{{
		Severity: Problem,
		What:     fmt.Sprintf("the memory that gateways share, %s, cannot be had: %v", e.Shared.Name, err),
		Why:      "each gateway goes on with what it knows itself: a STARTTLS that is missing through one is not missed through another, and a restart forgets what only this one knows",
	}}, nil
}
