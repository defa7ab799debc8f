// Package packaging has no code: it holds what packages are made of against what
// the project is.
package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A paragraph of the copyright file, by the names of its fields.
type paragraph map[string]string

// paragraphs reads the format that Debian's copyright file has.
func paragraphs(text string) []paragraph {
	var list []paragraph
	for _, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		p := paragraph{}
		field := ""
		for _, line := range strings.Split(block, "\n") {
			if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
				field = name
				p[field] = strings.TrimSpace(value) + "\n"
				continue
			}
			line = strings.TrimSpace(line)
			if line == "." {
				line = ""
			}
			p[field] += line + "\n"
		}
		list = append(list, p)
	}
	return list
}

// A module is linked into the program.
type module struct{ path, dir string }

func linked(t *testing.T) []module {
	t.Helper()
	var list []module
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Dir}}{{end}}", "postern/cmd/postern")
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			path, dir, _ := strings.Cut(line, " ")
			if m := (module{path, dir}); path != "" && path != "postern" && !slices.Contains(list, m) {
				list = append(list, m)
			}
		}
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return append(list, module{"go", strings.TrimSpace(string(goroot))})
}

var copyrightLine = regexp.MustCompile(`(?im)^\W*copyright (?:\(c\) )?(\d{4}.*)$`)

// words are a text without its layout.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }

// complaints holds one paragraph against the module that it speaks of.
func complaints(m module, p paragraph, licences map[string]string) []string {
	var list []string
	names, _ := filepath.Glob(filepath.Join(m.dir, "LICENSE*"))
	copying, _ := filepath.Glob(filepath.Join(m.dir, "COPYING*"))
	names = append(names, copying...)
	if len(names) != 1 {
		return []string{"expected one licence file: " + strings.Join(names, ", ")}
	}
	file, err := os.ReadFile(names[0])
	if err != nil {
		return []string{err.Error()}
	}
	text := string(file)
	name := strings.TrimSpace(p["License"])
	apache := strings.Contains(text, "Apache License") && strings.Contains(text, "Version 2.0")
	if apache != (name == "Apache-2.0") || !apache && !strings.Contains(words(text), words(licences[name])) {
		list = append(list, name+" is not what "+names[0]+" has")
	}
	for _, c := range copyrightLine.FindAllStringSubmatch(text, -1) {
		who := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(c[1]), " All rights reserved."), ".")
		if !strings.Contains(p["Copyright"], who) {
			list = append(list, "no word of "+who)
		}
	}
	notice, err := os.ReadFile(filepath.Join(m.dir, "NOTICE"))
	if err == nil && !strings.Contains(words(p["Comment"]), words(string(notice))) {
		list = append(list, "its NOTICE is not repeated, as section 4 (d) of the Apache License demands")
	}
	return list
}

func TestTheCopyrightFileNamesEveryLinkedModuleWithItsOwnLicence(t *testing.T) {
	text, err := os.ReadFile("copyright")
	if err != nil {
		t.Fatal(err)
	}
	about, licences := map[string]paragraph{}, map[string]string{}
	for _, p := range paragraphs(string(text)) {
		name, body, _ := strings.Cut(p["License"], "\n")
		if files := strings.TrimSpace(p["Files"]); files != "" {
			about[strings.TrimSuffix(files, "/*")] = p
		} else if name != "" {
			licences[name] = body
		}
	}
	modules := linked(t)
	for _, m := range modules {
		p, ok := about[m.path]
		if !ok {
			t.Errorf("%s is linked and not named", m.path)
			continue
		}
		delete(about, m.path)
		for _, c := range complaints(m, p, licences) {
			t.Errorf("%s: %s", m.path, c)
		}
		wrong := paragraph{"License": "BSD-2-Clause\n", "Copyright": "1999 nobody\n"}
		if len(complaints(m, wrong, licences)) == 0 {
			t.Errorf("%s: anything would do", m.path)
		}
	}
	delete(about, "*")
	for path := range about {
		t.Errorf("%s is named and not linked", path)
	}
	if len(modules) < 10 {
		t.Errorf("only %d modules", len(modules))
	}
}
