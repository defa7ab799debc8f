package tlshello

import (
	"crypto/tls"
	"testing"
)

func TestNamesAreThoseOfTheRegistriesAndUnknownValuesStayNumbers(t *testing.T) {
	for got, want := range map[string]string{
		VersionName(0x0002): "SSL 2.0",
		VersionName(0x0300): "SSL 3.0",
		VersionName(0x0301): "TLS 1.0",
		VersionName(0x0304): "TLS 1.3",
		VersionName(0x7F1C): "0x7F1C",
		CipherName(0x002F):  "TLS_RSA_WITH_AES_128_CBC_SHA",
		CipherName(0x0005):  "TLS_RSA_WITH_RC4_128_SHA",
		CipherName(0xC0FF):  "0xC0FF",
		CipherName(0x5600):  "TLS_FALLBACK_SCSV",
		GroupName(0x11EC):   "X25519MLKEM768",
		GroupName(0x001D):   "x25519",
		GroupName(0x0017):   "secp256r1",
		GroupName(0x0100):   "ffdhe2048",
		GroupName(0xABCD):   "0xABCD",
		AlertName(70):       "protocol_version",
		AlertName(200):      "alert 200",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestEveryCipherThatCryptoTLSKnowsHasTheSameName(t *testing.T) {
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if got := CipherName(s.ID); got != s.Name {
			t.Errorf("0x%04X is %s, crypto/tls says %s", s.ID, got, s.Name)
		}
	}
}

func TestNoTwoCiphersShareAName(t *testing.T) {
	seen := map[string]uint16{}
	for number, name := range cipherNames {
		if other, twice := seen[name]; twice {
			t.Errorf("0x%04X and 0x%04X are both %s", number, other, name)
		}
		seen[name] = number
	}
}
