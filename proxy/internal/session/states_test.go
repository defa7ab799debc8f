package session

import (
	"encoding/json"
	"testing"
)

// What FuzzSession calls a state is one that its session comes to: the legs are
// what they should be, and all that the client said until then was taken.
func TestTheStatesThatAreFuzzedAreReached(t *testing.T) {
	type legs struct{ client, upstream string }
	none, upgraded, both := legs{"none", "none"}, legs{"none", "ok"}, legs{"ok", "ok"}
	want := map[string]struct {
		legs
		octets string // from the client
		rule   string
	}{
		"connected":                           {none, "0", "default"},
		"greeted in clear":                    {none, "8", "default"},
		"the way to the server being secured": {none, "8", "default"},
		"observed, the way being secured":     {none, "8", "default"},
		"the server secured":                  {upgraded, "8", "default"},
		"both in TLS, not greeted":            {both, "18", "default"},
		"both in TLS":                         {both, "26", "default"},
		"sender given":                        {both, "43", "default"},
		"recipient given":                     {both, "58", "default"},
		"in content":                          {both, "64", "default"},
		"within a chunk":                      {both, "72", "default"},
		"between chunks":                      {both, "69", "default"},
		"in an AUTH dialogue":                 {both, "38", "default"},
		"recipient refused by a rule":         {both, "58", "default"},
		"connection refused for good":         {upgraded, "8", "everybody"},
		"observed, and refused":               {both, "58", "everybody"},
	}
	for _, s := range states() {
		t.Run(s.name, func(t *testing.T) {
			h := newHostile(s)
			h.hold(t, nil, nil)
			var record map[string]any
			if err := json.Unmarshal([]byte(h.log.String()), &record); err != nil {
				t.Fatal(err)
			}
			w := want[s.name]
			wantFields(t, record, map[string]string{"client_tls.state": w.client, "upstream_tls.state": w.upstream,
				"bytes.in": w.octets, "rule": w.rule})
		})
	}
}
