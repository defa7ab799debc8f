package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"postern/smtpwire/wiretest"
)

var everyAttack = regexp.MustCompile("")

func TestEveryAttackOfTheGalleryComesToWhatItMust(t *testing.T) {
	all, err := readAttacks(attackFiles, everyAttack)
	if err != nil {
		t.Fatal(err)
	}
	results, err := playAll(program("postern"), all)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range results {
		t.Run(one.name, func(t *testing.T) {
			if len(one.faults) > 0 {
				var shown bytes.Buffer
				newPage(&shown).showAttempt(one, false)
				t.Error(shown.String())
			}
		})
	}
}

func TestTheGalleryIsShownWithTheBytesOfBothSides(t *testing.T) {
	var out, errs bytes.Buffer
	if code := attackGallery(program("postern"), "^starttls-client-injection/rset$", false, &out, &errs); code != exitFine {
		t.Fatalf("exit %d: %s%s", code, out.String(), errs.String())
	}
	for _, want := range []string{
		"PASS   starttls-client-injection/rset: ",
		`-> "STARTTLS\r\nRSET\r\n"`,
		`<- "554 5.5.2 mx.test: octets in clear behind STARTTLS (starttls-injection) [`,
		"-- handshake: TLS 1.3 TLS_",
		`<- TLS "EHLO client.test\r\n"`,
		"record   reject: starttls-injection, ",
		"1 attacks: 1 passed, 0 failed.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in\n%s", want, out.String())
		}
	}
}

// A gallery in which nothing can fail would prove nothing.
func TestAnAttackThatComesToSomethingElseFails(t *testing.T) {
	const honest = `title: a session without any attack
source: none
where: falling-back
record: verdict=allow reason="" end=quit tls=may:TLSv1.3 client.helo=client.test
client:
	include greeted
	include quit
server:
	include secured
	include quit
`
	edits := []struct{ name, old, new, want string }{
		{"client", "include greeted\n", "S: 250 no banner\n", `expected "250 no banner\r\n"`},
		{"server", "include secured\n", "include secured\n\tC: MAIL FROM:<smuggled@evil.test>\n", `received "QUIT\r\n"`},
		{"record", "end=quit", "end=crashed", `record: end is "quit", expected "crashed"`},
		{"part-of-the-record", "TLSv1.3", "TLSv1.2", `tls is "may:TLSv1.3", expected "may:TLSv1.2"`},
		{"no-such-field", "client.helo", "client.hello", `client.hello is "", expected "client.test"`},
		{"one-connection-more", "include secured\n\tinclude quit", "include offered\n\tS: 454 no\n\tC close", "there was one connection more"},
		{"no-second-connection", "server:", "server:\n\tinclude secured\n\tinclude quit\nserver:", "there was no connection 2"},
		{"honest", "", "", ""},
	}
	var all []attack
	for _, edit := range edits {
		found, err := parseAttacks(attackFiles, edit.name, strings.Replace(honest, edit.old, edit.new, 1))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	results, err := playAll(program("postern"), all)
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range results {
		faults := strings.Join(one.faults, "\n")
		if edits[i].want == "" && faults != "" || !strings.Contains(faults, edits[i].want) || edits[i].want != "" && faults == "" {
			t.Errorf("%s: %q, want %q", one.name, faults, edits[i].want)
		}
	}
	var shown bytes.Buffer
	if code := newPage(&shown).sumUp(results); code != exitFinding || !strings.Contains(shown.String(), "8 attacks: 1 passed, 7 failed") {
		t.Errorf("exit %d: %s", code, shown.String())
	}
	shown.Reset()
	newPage(&shown).showAttempt(results[2], false)
	if !strings.Contains(shown.String(), "FAIL   record: ") || !strings.Contains(shown.String(), `WRONG    record: end is "quit"`) {
		t.Error(shown.String())
	}
}

func TestWordsInClearBehindAFailedHandshakeAreAFaultWhateverTheScriptSays(t *testing.T) {
	failed := wiretest.Event{Failed: true}
	for _, row := range []struct {
		event wiretest.Event
		fault bool
	}{
		{wiretest.Event{From: wiretest.Server, Bytes: []byte("421 bye\r\n")}, true},
		{wiretest.Event{From: wiretest.Server, Bytes: []byte("\x15\x03\x03\x00\x02\x02\x28")}, false},
		{wiretest.Event{From: wiretest.Client, Bytes: []byte("MAIL FROM:<>\r\n")}, false},
		{wiretest.Event{From: wiretest.Server, Note: "has closed"}, false},
	} {
		a := &attempt{client: transcript{events: []wiretest.Event{failed, row.event}}}
		if a.judge(); len(a.faults) > 0 != row.fault {
			t.Errorf("%+v: %q", row.event, a.faults)
		}
	}
}

func TestAPatternThatMeansNothingIsUsage(t *testing.T) {
	for _, only := range []string{"(", "no such attack"} {
		var out, errs bytes.Buffer
		if code := attackGallery(program("postern"), only, false, &out, &errs); code != exitUsage || errs.Len() == 0 {
			t.Errorf("%q: exit %d, %s", only, code, errs.String())
		}
	}
}

// sound is an attack that is wholly described.
const sound = "title: a\nsource: b\nrecord: verdict=allow reason=\"\" end=quit\nclient:\n\tS close\nserver:\n\tC close\n"

func TestAnAttackOfWhichSomethingIsLeftOpenIsRefused(t *testing.T) {
	if _, err := parseAttacks(fstest.MapFS{}, "sound", sound); err != nil {
		t.Fatal(err)
	}
	for old, row := range map[string]struct{ new, want string }{
		"title: a\n":         {"", "no title"},
		"source: b\n":        {"", "no source"},
		"end=quit":           {"", "what end the record has"},
		"client:\n\tS close": {"client:\n\tS: 220", "not the end of the connection"},
		"server:\n\tC close": {"", "no server"},
		"S close":            {"include nothing", "nothing.txt"},
		"C close":            {"X close\n\tC close", "begins with neither"},
		"title: a":           {"title: a\nwhere: nowhere", `no place "nowhere"`},
		"source: b":          {"source: b\nbare: naked", `cannot be "naked"`},
		"source":             {"why: c\nsource", "is nothing that is said"},
		"record: verdict":    {"record: verdict verdict", "is no key=value"},
		"\nclient:":          {"\nclients:", "no client"},
	} {
		_, err := parseAttacks(fstest.MapFS{}, "unsound", strings.Replace(sound, old, row.new, 1))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%q for %q: %v, want %s", row.new, old, err, row.want)
		}
	}
}

func TestEachVariantIsAnAttackOfItsOwn(t *testing.T) {
	text := "each: one X=`a` Y=\"b c\"\neach: two X=d Y=\n" + strings.Replace(sound, "title: a", "title: {X}{Y}", 1)
	all, err := parseAttacks(fstest.MapFS{}, "many", text)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d, %v", len(all), err)
	}
	if all[0].name != "many/one" || all[0].title != "ab c" || all[1].name != "many/two" || all[1].title != "d" {
		t.Errorf("%+v", all)
	}
}
