package main

import (
	"bytes"
	"context"
	"testing"
	"time"
)

func TestHonestMailFlowsUnderHostileLoadAndTheLimitsHold(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.title, func(t *testing.T) {
			t.Parallel() // each is a network of its own, and waits most of the time
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			var out, errs bytes.Buffer
			// All at once, and beside other tests, everything may take its time.
			o := loadOptions{sessions: 200, slow: 5, flood: 300, starving: patience, lenience: 12 * time.Second}
			ok := s.hold(ctx, program("postern"), o, &out, &errs)
			t.Log(out.String())
			if !ok {
				t.Error(errs.String())
			}
		})
	}
}
