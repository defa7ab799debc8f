package recorded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"postern/enforce"
)

// whole is a record as the README describes it, with a field of a later release.
const whole = `{"level":"info","time":"2026-11-24T12:00:00.000Z","msg":"session","session":"7KQ2M4XA","mode":"enforce","generation":3,"of_a_later_release":{"a":[1]},` +
	`"client":{"address":"10.1.0.2","port":40000,"helo":"printer"},"upstream":{"address":"2001:db8::25","port":25,"banner":"mx.example.net ESMTP"},` +
	`"interface":"lan0","rule":"contoso","verdict":"defer","reason":"cert-name-mismatch","detail":"the certificate is for x","stage":"rcpt","tls":"secure!cert",` +
	`"failures":[{"reason":"cert-name-mismatch","detail":"it is","rule":"contoso"},{"reason":"tls-no-forward-secrecy","rule":"c","logged":true}],` +
	`"client_tls":{"state":"failed","offered_versions":["TLS 1.0","TLS 1.1"],"hold":{"offered":"TLS 1.1","since":"2026-11-24T00:00:00Z","until":"2026-11-25T00:00:00Z","refused":2}},` +
	`"upstream_tls":{"state":"ok","version":"TLS 1.2","cipher":"TLS_RSA_WITH_AES_128_CBC_SHA","group":"X25519MLKEM768","sni":"mx.example.net","resumed":true,"forward_secrecy":false,` +
	`"certificate":{"subject":"CN=x y","issuer":"CN=y","names":["x.example","*.y.example","and 7 more"],"sha256":"` + ones + `","spki_sha256":"` + ones + `","not_before":"2026-11-24T00:00:00Z","not_after":"2027-11-24T00:00:00Z","key":"RSA 2048"},"verified":true},` +
	`"transactions":[{"mail_domain":"a.example","rcpt_domains":["b.example","e.example"],"accepted":2,"refused":[{"domain":"c.example","rule":"contoso","reason":"cert-name-mismatch"},{"domain":"d.example","reply":"550 5.1.1"}],"bytes":10,"reply":"250 ok"},{"mail_domain":"","accepted":0,"bytes":0}],` +
	`"bytes":{"in":1,"out":2},"duration_ms":1.5,"end":"quit"}`

const ones = "0101010101010101010101010101010101010101010101010101010101010101"

// flat makes of a record what the journal has of it, as proxy/internal/record does.
func flat(t *testing.T, line string) string {
	t.Helper()
	var nested map[string]any
	if err := json.Unmarshal([]byte(line), &nested); err != nil {
		t.Fatal(err)
	}
	vars := map[string]any{"MESSAGE": "session 7KQ2M4XA ...", "__REALTIME_TIMESTAMP": "1795521600000000", "PRIORITY": "6", "POSTERN_MSG": nested["msg"]}
	var walk func(string, any)
	walk = func(key string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(key+"_"+strings.ToUpper(k), inner)
			}
		case []any:
			var words []string
			for i, inner := range v {
				if m, ok := inner.(map[string]any); ok {
					walk(fmt.Sprintf("%s_%d", key, i), m)
					continue
				}
				words = append(words, fmt.Sprint(inner))
			}
			if len(words) > 0 {
				vars[key] = strings.Join(words, " ")
			}
		default:
			vars[key] = fmt.Sprint(v)
		}
	}
	delete(nested, "time")
	walk("POSTERN", nested)
	out, err := json.Marshal(vars)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func quoted(s string) string {
	out, _ := json.Marshal(s)
	return string(out)
}

func TestARecordIsTheSameInEveryFormThatALogHas(t *testing.T) {
	want, err := NewReader(strings.NewReader(whole)).Next()
	if err != nil {
		t.Fatal(err)
	}
	if want.Session != "7KQ2M4XA" || want.Reason != enforce.CertNameMismatch || want.Client.Port != 40000 || len(want.Transactions) != 2 ||
		len(want.Failures) != 2 || !want.Failures[1].Logged || want.ClientTLS.Hold.Refused != 2 || want.UpstreamTLS.Certificate.Key != "RSA 2048" ||
		want.Transactions[0].Refused[1].Reply != "550 5.1.1" || want.DurationMS != 1.5 || !want.UpstreamTLS.Resumed {
		t.Errorf("%+v", want)
	}
	for name, line := range map[string]string{
		"in a message of the journal": `{"_SYSTEMD_UNIT":"postern.service","MESSAGE":` + quoted(whole) + `}`,
		"in fields of the journal":    flat(t, whole),
	} {
		got, err := NewReader(strings.NewReader(line)).Next()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.HasSuffix(name, "fields of the journal") {
			if got.Time != "2026-11-24T12:00:00Z" {
				t.Errorf("%s", got.Time)
			}
			got.Time = want.Time
		}
		if !reflect.DeepEqual(got, want) {
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			t.Errorf("%s:\n%s\nwant\n%s", name, a, b)
		}
	}
}

func TestWhatIsNoRecordIsPassedOverAndWhatIsNoLogLineIsNamed(t *testing.T) {
	long := `{"msg":"session","detail":"` + strings.Repeat("x", MaxLine) + `"}`
	log := strings.Join([]string{
		`{"level":"info","msg":"serving"}`,
		whole,
		``,
		`Nov 24 12:00:00 host postern[1]: session 7KQ2M4XA`,
		long,
		`{"msg":"session","client":"10.1.0.2"}`,
		`{"msg":7}`,
		`[1]`,
		`{"name":"somebody else's"}`,
		`{"MESSAGE":"Started postern.service."}`,
		`{"MESSAGE":[1,2,3]}`,
		`{"MESSAGE":null}`,
		`{"POSTERN_MSG":"listening","POSTERN_ADDRESS":"x"}`,
		`{"POSTERN_MSG":"session","POSTERN_CLIENT_PORT":"many"}`,
		`{"MESSAGE":` + quoted(`{"msg":"serving"}`) + `}`,
		`{"MESSAGE":` + quoted(`{"msg":`) + `}`,
		whole, // and no end of line
	}, "\n")
	r := NewReader(strings.NewReader(log))
	var at []int
	var said []string
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if bad := (*LineError)(nil); errors.As(err, &bad) {
			said = append(said, bad.Error())
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, rec.Line)
	}
	if want := []int{2, 17}; !reflect.DeepEqual(at, want) {
		t.Errorf("records in lines %v, want %v", at, want)
	}
	want := `line 4: no JSON object found, expected one log line in JSON
line 5: longer than 1048576 octets
line 6: client: string found, expected object
line 7: no JSON object found, expected one log line in JSON
line 8: no JSON object found, expected one log line in JSON
line 9: no msg found, expected a log line of Postern
line 12: the message was left out, expected journalctl with --all
line 14: a field has another type than that of a record has`
	if got := strings.Join(said, "\n"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestAFileThatCannotBeReadEndsWithItsError(t *testing.T) {
	gone := errors.New("gone")
	r := NewReader(io.MultiReader(strings.NewReader(whole+"\n"), failing{gone}))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

func TestFactsAreThoseOfTheRecord(t *testing.T) {
	rec, err := NewReader(strings.NewReader(whole)).Next()
	if err != nil {
		t.Fatal(err)
	}
	up := rec.UpstreamTLS.Facts(NewNames())
	if up.State != enforce.StateOK || up.Version != 0x0303 || up.Cipher != 0x002f || up.Group != 0x11ec || !up.Resumed || up.Certificate.SHA256[3] != 1 ||
		up.Certificate.NotAfter.Year() != 2027 || len(up.Certificate.DNSNames) != 2 {
		t.Errorf("%+v %+v", up, up.Certificate)
	}
	if _, all := rec.UpstreamTLS.Certificate.DNSNames(); all {
		t.Error("names were left out")
	}
	c, ok := rec.Connection()
	if !ok || c.Client.String() != "10.1.0.2" || c.Upstream.String() != "2001:db8::25" {
		t.Errorf("%v %v", c, ok)
	}
	none := new(Record)
	if _, ok := none.Connection(); ok || none.UpstreamTLS.StateOf() != enforce.StateUnknown || none.UpstreamTLS.Facts(NewNames()).Certificate != nil {
		t.Error("something of nothing")
	}
}

func FuzzReader(f *testing.F) {
	f.Add(whole)
	f.Add(`{"MESSAGE":` + quoted(whole) + `}`)
	f.Add(`{"POSTERN_MSG":"session","POSTERN_TRANSACTIONS_0_REFUSED_0_DOMAIN":"a","POSTERN_UPSTREAM_TLS_CERTIFICATE_NAMES":"a and 3 more TLS"}`)
	f.Add("{}\n\n[\n" + whole + "\n{")
	names := NewNames()
	f.Fuzz(func(t *testing.T, log string) {
		r := NewReader(strings.NewReader(log))
		for lines := strings.Count(log, "\n") + 2; ; lines-- {
			if lines < 0 {
				t.Fatal("more lines read than there are")
			}
			rec, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				rec.Connection()
				rec.UpstreamTLS.Facts(names)
				rec.ClientTLS.Facts(names)
			}
		}
	})
}
