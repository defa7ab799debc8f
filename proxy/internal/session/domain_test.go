package session

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A domain that is not given to IDNA must be one of which that makes nothing else.
func TestAPlainDomainIsWhatIDNAMakesOfIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		domain := rapid.StringMatching(`[a-zA-Z0-9.xn\-]{0,20}(xn--)?[a-zA-Z0-9.\-]{0,20}`).Draw(t, "domain")
		if !plainDomain(domain) {
			return
		}
		ascii, err := domains.ToASCII(domain)
		if err != nil || ascii != strings.ToLower(domain) {
			t.Fatalf("%q is %q, %v", domain, ascii, err)
		}
	})
}
