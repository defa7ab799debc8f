package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
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
			if one.later != "" {
				t.Skip(one.later)
			}
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
		"1 attacks: 1 passed, 0 failed, 0 to be played later.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in\n%s", want, out.String())
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
