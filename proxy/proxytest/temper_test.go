package proxytest

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

func TestEveryTemperIsWhatItSaysItIs(t *testing.T) {
	// What a client that insists on verified TLS meets; empty: its mail passes.
	want := map[string]string{
		"modern":              "",
		"tls13":               "",
		"tls12":               "",
		"tls10":               "server selected unsupported protocol version 301",
		"tls10-alert":         "protocol version not supported",
		"no-starttls":         "no STARTTLS: not offered",
		"wrong-name":          "certificate is valid for elsewhere.invalid, not mx.test",
		"expired":             "certificate has expired",
		"self-signed":         "unknown authority",
		"sha1":                "unknown authority",
		"helo-only":           "no STARTTLS: not offered",
		"starttls-refused":    "no STARTTLS: 454",
		"stalls":              "greeting: read",
		"stalls-in-handshake": "handshake: read",
		"stalls-at-end":       "mail 1: read",
		"refuses":             "refused: greeting: 554",
		"injects":             `behind the 220: "250 injected\r\n"`,
		"lax":                 "",
	}
	versions := map[string]uint16{"modern": tls.VersionTLS13, "tls13": tls.VersionTLS13, "tls12": tls.VersionTLS12}
	for _, temper := range Tempers() {
		t.Run(temper.Name, func(t *testing.T) {
			t.Parallel()
			text, known := want[temper.Name]
			if !known || temper.About == "" {
				t.Fatal("nobody knows what it should do")
			}
			cfg, err := temper.Config(pki(t), "mx.test")
			if err != nil {
				t.Fatal(err)
			}
			report, d, _ := session(t, cfg, time.Second)
			if text == "" {
				if !report.Accepted(d) {
					t.Fatalf("%v\n%s", report.Err, transcript(report))
				}
			} else if report.Err == nil || !strings.Contains(report.Err.Error(), text) {
				t.Fatalf("%v", report.Err)
			}
			if v, ok := versions[temper.Name]; ok && report.TLS.Version != v {
				t.Errorf("version %s", tls.VersionName(report.TLS.Version))
			}
		})
	}
}

func TestATLS10ServerCanBeTalkedToByAClientOfItsTime(t *testing.T) {
	temper, err := TemperNamed("tls10-alert")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := temper.Config(pki(t), "mx.test")
	if err != nil {
		t.Fatal(err)
	}
	client := trusting(t)
	client.MinVersion, client.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
	client.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	d := Delivery{STARTTLS: AlwaysTLS, TLS: client, Mails: []Mail{mail("old\r\n")}, Timeout: 10 * time.Second}
	report := Deliver(dial(t, serve(t, cfg)), d)
	if !report.Accepted(d) || report.TLS.Version != tls.VersionTLS10 || report.TLS.CipherSuite != tls.TLS_RSA_WITH_AES_128_CBC_SHA {
		t.Errorf("%v\n%s", report.Err, transcript(report))
	}
}

func TestAnUnknownTemperIsAnsweredWithThoseThereAre(t *testing.T) {
	if _, err := TemperNamed("kind"); err == nil || !strings.Contains(err.Error(), "tls10-alert") {
		t.Error(err)
	}
}

func TestHidingAnExtensionNeverLeavesTheRecord(t *testing.T) {
	for _, record := range []string{
		"", "\x16", "\x16\x03\x01\x00\x01\x01", strings.Repeat("\xff", 100), strings.Repeat("\x00", 44),
		strings.Repeat("\x00", 200), "\x16\x03\x01\x00\x60" + strings.Repeat("\x00", 38) + "\x00\x00\x02\x13\x01\x01\x00\x00\x05\x00\x2b\x00\x09\x00",
	} {
		hideSupportedVersions([]byte(record))
	}
}
