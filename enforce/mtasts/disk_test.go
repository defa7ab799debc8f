package mtasts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func file(t testing.TB, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func put(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// inForce fetches the policy and closes the cache, so that it is on disk only.
func inForce(t testing.TB, w *world, dir string) {
	t.Helper()
	c := w.cache(dir)
	ask(t, c)
	synctest.Wait()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAPolicyHoldsAfterARestartWithTheServerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state", "policies") // made by New
		w := newWorld(t)
		inForce(t, w, dir)
		for name, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, example): 0o600} {
			if info, err := os.Stat(name); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v", name, info.Mode(), err)
			}
		}
		before := w.counts()
		w.set(func() { w.down, w.records = true, []string{"v=STSv1; id=2"} })
		time.Sleep(day)
		c := w.cache(dir)
		if w.counts() != before {
			t.Error("New asked somebody")
		}
		p := ask(t, c)
		expect(t, p, Found, ModeEnforce, "1")
		if !p.MatchMX("a.example.net") || p.MatchMX("example.net") || !p.Fetched.Equal(time.Now().Add(-day)) || p.MaxAge != 7*day {
			t.Errorf("%+v", p)
		}
		expect(t, until(t, c, 5*day), Found, ModeEnforce, "1")
		time.Sleep(day)
		expect(t, ask(t, c), FetchFailed, "", "")
		if got := names(t, dir); len(got) != 0 {
			t.Errorf("%q left", got)
		}
	})
}

func TestAFileThatIsNoGoodIsIgnoredReportedAndReplaced(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(string) string
		want string // of the report
	}{
		{"empty", func(string) string { return "" }, "unexpected end"},
		{"cut off", func(s string) string { return s[:len(s)/2] }, "unexpected end"},
		{"not JSON", func(string) string { return "version: STSv1\n" }, "invalid character"},
		{"of another domain", func(s string) string { return strings.Replace(s, `"example.com"`, `"other.example"`, 1) }, "of another domain"},
		{"fetched in the future", func(s string) string { return strings.ReplaceAll(s, `"2000-`, `"2001-`) }, "fetched in the future"},
		{"with a longer life", func(s string) string { return strings.Replace(s, `"expires": "2000-`, `"expires": "2001-`, 1) }, "its times don't agree"},
		{"with a life beyond all", func(s string) string { return strings.Replace(s, `604800`, `9999999999999`, 1) }, "its times don't agree"},
		{"with a life below nought", func(s string) string { return strings.Replace(s, `604800`, `-1`, 1) }, "its times don't agree"},
		{"an unknown mode", func(s string) string { return strings.Replace(s, `"enforce"`, `""`, 1) }, "not a policy"},
		{"a pattern that is none", func(s string) string { return strings.Replace(s, `*.example.net`, `*`, 1) }, "not a policy"},
		{"no patterns", func(s string) string { return s[:strings.Index(s, `"mx"`)] + s[strings.Index(s, `"max_age"`):] }, "not a policy"},
		{"no id", func(s string) string { return strings.Replace(s, `"id": "1"`, `"id": ""`, 1) }, "not a policy"},
		{"too large", func(s string) string { return s + strings.Repeat(" ", mostFile) }, "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				w := newWorld(t)
				inForce(t, w, dir)
				good := file(t, dir, example)
				put(t, dir, example, c.edit(good))
				if file(t, dir, example) == good {
					t.Fatal("not edited")
				}
				w.set(func() { w.records = nil })
				cache := w.cache(dir)
				expect(t, ask(t, cache), NoPolicy, "", "")
				if len(w.reports) != 1 || !strings.HasPrefix(w.reports[0], "example.com: mta-sts: stored policy: ") || !strings.Contains(w.reports[0], c.want) {
					t.Errorf("%q", w.reports)
				}
				w.set(func() { w.records = []string{"v=STSv1; id=1"} })
				time.Sleep(lookAgain)
				expect(t, ask(t, cache), Found, ModeEnforce, "1")
				synctest.Wait()
				if _, _, err := readStored([]byte(file(t, dir, example)), example, time.Now()); err != nil {
					t.Errorf("not replaced: %v", err)
				}
			})
		})
	}
}

func TestAStoredPolicyThatHasRunOutIsRemovedInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t)
		inForce(t, w, dir)
		time.Sleep(7 * day)
		c := w.cache(dir)
		go c.Run(t.Context())
		synctest.Wait()
		if got := names(t, dir); len(got) != 0 {
			t.Errorf("%q left", got)
		}
		w.expectReports()
		w.expect(1, 1)
	})
}

func TestWhatDoesNotBelongIsReportedAndLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t)
		inForce(t, w, dir)
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.Rename(filepath.Join(dir, example), secret); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(secret, filepath.Join(dir, example)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "a.example"), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, dir, "Not a domain\n", "")
		put(t, dir, ".new-example.com", "{") // the power went
		w.set(func() { w.records = nil })
		c := w.cache(dir)
		expect(t, ask(t, c), NoPolicy, "", "")
		if len(w.reports) != 3 || !strings.Contains(strings.Join(w.reports, " "), "Not a domain?: mta-sts: stored policy") {
			t.Errorf("%q", w.reports)
		}
		if got := names(t, dir); len(got) != 3 {
			t.Errorf("%q", got)
		}
	})
}

func TestADiskThatFailsIsReportedAndThePolicyHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t)
		c := w.cache(dir)
		if err := os.Mkdir(filepath.Join(dir, example), 0o700); err != nil { // where the file should go
			t.Fatal(err)
		}
		expect(t, ask(t, c), Found, ModeEnforce, "1")
		synctest.Wait()
		if len(w.reports) != 1 || !strings.HasPrefix(w.reports[0], "example.com: mta-sts: stored policy: rename") {
			t.Errorf("%q", w.reports)
		}
		if got := names(t, dir); len(got) != 1 {
			t.Errorf("%q", got)
		}
	})
	if c, err := New(Options{Dir: filepath.Join("/dev/null", "policies")}); err == nil {
		c.Close()
		t.Error("a directory that cannot be")
	}
}

func TestThereAreNeverMoreFilesThanDomains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, err := parsePolicy(policyOfSection3)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		for i := range MostDomains {
			put(t, dir, domain(i), string(encode(newPolicy(domain(i), "1", d, now), now)))
		}
		w := newWorld(t)
		c := w.cache(dir)
		for i := range 20 {
			if p, err := c.Policy(context.Background(), domain(i)); err != nil || p.State != Found {
				t.Fatalf("%+v, %v", p, err)
			}
		}
		expect(t, ask(t, c), Found, ModeEnforce, "1")
		synctest.Wait()
		got := names(t, dir)
		if len(got) != MostDomains || len(c.entries) != MostDomains {
			t.Errorf("%d files, %d entries", len(got), len(c.entries))
		}
		kept := strings.Join(got, " ")
		for i := range 20 {
			if !strings.Contains(kept, domain(i)) {
				t.Error(fmt.Sprint(domain(i), " was asked for and went"))
			}
		}
	})
}
