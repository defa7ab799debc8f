package packaging

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/packaging/manual"
)

func TestEveryPackage(t *testing.T) {
	all := packages(t)
	for _, row := range []struct {
		sentence string
		check    func(*testing.T, built)
	}{
		{"has its files and no others", hasItsFiles},
		{"has a program that is static and says nothing of the machine that built it", hasAStaticProgram},
		{"has a changelog that begins with its version", hasItsChangelog},
		{"has no compressed file that says when or from what", hasNamelessArchives},
		{"says in its header what it is", hasItsHeader},
		{"has its scripts", hasItsScripts},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			for _, b := range all {
				t.Run(b.name, func(t *testing.T) { row.check(t, b) })
			}
		})
	}
	t.Run("is of one version and time", func(t *testing.T) { areOfOneVersion(t, all) })
}

func areOfOneVersion(t *testing.T, all []built) {
	seen := map[string]string{}
	times := map[string]bool{}
	for _, b := range all {
		seen[b.kind+" "+b.arch] = b.version
		times[b.time] = true
		names := map[string]string{"deb": "postern_" + b.version + "_" + b.arch + ".deb", "rpm": "postern-" + b.version + "-1." + b.header["ARCH"] + ".rpm"}
		if b.name != names[b.kind] {
			t.Errorf("%s: version %s, architecture %s", b.name, b.version, b.arch)
		}
	}
	for _, name := range []string{"deb amd64", "deb arm64", "rpm amd64", "rpm arm64"} {
		if seen[name] == "" || seen[name] != seen["deb amd64"] {
			t.Errorf("%s: %q of %v", name, seen[name], seen)
		}
	}
	if len(times) != 1 {
		t.Errorf("times %v", times)
	}
}

// installed are files that every package has, beside the units and pages that the
// tree has. In the deb root owns all: its postinst gives away what is not root's.
var installed = map[string]file{
	"/usr/bin/postern":                                  {mode: 0o755},
	"/etc/postern":                                      {mode: os.ModeDir | 0o755},
	"/etc/postern/tls":                                  {mode: os.ModeDir | 0o750, owner: "root:postern"},
	"/etc/postern/postern.toml":                         {mode: 0o640, owner: "root:postern", config: true},
	"/etc/logrotate.d/postern":                          {mode: 0o644, config: true},
	"/usr/lib/sysusers.d/postern.conf":                  {mode: 0o644},
	"/usr/lib/tmpfiles.d/postern.conf":                  {mode: 0o644},
	"/usr/share/bash-completion/completions/postern":    {mode: 0o644},
	"/usr/share/fish/vendor_completions.d/postern.fish": {mode: 0o644},
	"/usr/share/doc/postern/README.md":                  {mode: 0o644, doc: true},
	"/usr/share/doc/postern/examples/input.nft":         {mode: 0o644, doc: true},
}

// only are files that one kind of package has.
var only = map[string]map[string]file{
	"deb": {
		"/usr/share/doc/postern/copyright":           {mode: 0o644},
		"/usr/share/doc/postern/changelog.gz":        {mode: 0o644},
		"/usr/share/lintian/overrides/postern":       {mode: 0o644},
		"/usr/share/zsh/vendor-completions/_postern": {mode: 0o644},
	},
	"rpm": {
		"/usr/share/licenses/postern/LICENSE":    {mode: 0o644, doc: true},
		"/usr/share/licenses/postern/copyright":  {mode: 0o644, doc: true},
		"/usr/share/zsh/site-functions/_postern": {mode: 0o644},
		"/usr/share/fish":                        {mode: os.ModeDir | 0o755},
		"/usr/share/fish/vendor_completions.d":   {mode: os.ModeDir | 0o755},
		"/usr/share/zsh":                         {mode: os.ModeDir | 0o755},
		"/usr/share/zsh/site-functions":          {mode: os.ModeDir | 0o755},
		"/usr/share/doc/postern":                 {mode: os.ModeDir | 0o755},
		"/usr/share/doc/postern/examples":        {mode: os.ModeDir | 0o755},
		"/usr/share/licenses/postern":            {mode: os.ModeDir | 0o755},
		"/var/lib/postern":                       {mode: os.ModeDir | 0o750, owner: "postern:postern"},
		"/var/log/postern":                       {mode: os.ModeDir | 0o750, owner: "postern:postern"},
	},
}

// expected adds what the tree has to what is listed.
func expected(t *testing.T, kind string) map[string]file {
	t.Helper()
	all := map[string]file{}
	for _, list := range []map[string]file{installed, only[kind]} {
		for name, f := range list {
			if f.owner == "" {
				f.owner = "root:root"
			}
			if kind == "deb" {
				f.owner, f.doc = "root:root", false
				f.mode |= f.mode & 0o070 >> 3 // what the group may everybody may, until then
			}
			all[name] = f
		}
	}
	for pattern, dir := range map[string]string{
		"systemd/*.service": "/usr/lib/systemd/system", "systemd/*.socket": "/usr/lib/systemd/system", "systemd/*.target": "/usr/lib/systemd/system",
		"nftables/*.nft": "/usr/share/doc/postern/examples", "systemd/*.conf": "/usr/share/doc/postern/examples", "keepalived/*.conf": "/usr/share/doc/postern/examples",
	} {
		for _, name := range glob(t, pattern) {
			all[dir+"/"+filepath.Base(name)] = file{mode: 0o644, owner: "root:root", doc: kind == "rpm" && strings.HasSuffix(dir, "examples")}
		}
	}
	for _, name := range glob(t, "man/*.[0-9]") {
		all["/usr/share/man/man"+name[len(name)-1:]+"/"+filepath.Base(name)+".gz"] = file{mode: 0o644, owner: "root:root", doc: kind == "rpm"}
	}
	return all
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var page = regexp.MustCompile(`^/usr/share/man/man([58])/postern[a-z.-]*\.([58])\.gz$`)

func hasItsFiles(t *testing.T, b built) {
	want := expected(t, b.kind)
	pages := 0
	for name, f := range b.files {
		w, ok := want[name]
		switch m := page.FindStringSubmatch(name); {
		case ok:
		case m != nil && m[1] == m[2]:
			pages++
			w = file{mode: 0o644, owner: "root:root", doc: b.kind == "rpm"}
		case b.kind == "deb" && f.mode.IsDir(): // those that lead there
			w = file{mode: os.ModeDir | 0o755, owner: "root:root"}
		default:
			t.Errorf("%s is not expected", name)
			continue
		}
		if f.mode != w.mode || f.owner != w.owner || f.config != w.config || f.doc != w.doc {
			t.Errorf("%s: %s %s config %v doc %v", name, f.mode, f.owner, f.config, f.doc)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
	if pages < 10 {
		t.Errorf("%d pages", pages)
	}
	for _, f := range manual.Files {
		if _, ok := b.files[path.Clean(f[0])]; !ok {
			t.Errorf("%s is named in the manual, and is not there", f[0])
		}
	}
}

func hasAStaticProgram(t *testing.T, b built) {
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.TrimSpace(string(output(t, "go", "env", "GOMODCACHE")))
	binary := b.files["/usr/bin/postern"].content
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[b.arch]; f.Machine != want {
		t.Errorf("machine %s", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s: it is not static", p.Type)
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "-trimpath" && s.Value != "true" {
			t.Errorf("built with %s", s)
		}
	}
	for _, place := range []string{tree, modules, filepath.Join(home, "go"), "/build/stage"} {
		if bytes.Contains(binary, []byte(place)) {
			t.Errorf("%s is named in it", place)
		}
	}
	if !bytes.Contains(binary, []byte(b.version)) {
		t.Error("it does not know its version")
	}
}

func hasItsChangelog(t *testing.T, b built) {
	if b.kind == "rpm" {
		if !strings.HasSuffix(b.header["CHANGELOGNAME"], "> - "+b.version+"-1") {
			t.Errorf("%s", b.header["CHANGELOGNAME"])
		}
		return
	}
	z, err := gzip.NewReader(bytes.NewReader(b.files["/usr/share/doc/postern/changelog.gz"].content))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || !strings.HasPrefix(string(text), "postern ("+b.version+") ") {
		t.Errorf("%.60s %v", text, err)
	}
}

func hasNamelessArchives(t *testing.T, b built) {
	found := 0
	for name, f := range b.files {
		if !strings.HasSuffix(name, ".gz") {
			continue
		}
		found++
		z, err := gzip.NewReader(bytes.NewReader(f.content))
		if err != nil || z.Name != "" || !z.ModTime.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if found == 0 {
		t.Error("none")
	}
}

func hasItsHeader(t *testing.T, b built) {
	if b.kind != "rpm" {
		return
	}
	requires := strings.Fields(b.header["REQUIRES"])
	for _, name := range []string{"/usr/bin/systemd-sysusers", "/usr/bin/systemd-tmpfiles"} {
		if !slices.Contains(requires, name) {
			t.Errorf("%s is not required", name)
		}
	}
	for tag, want := range map[string]string{
		"LICENSE": "Apache-2.0 AND BSD-3-Clause AND MIT", "BUILDHOST": "localhost", "RELEASE": "1",
	} {
		if b.header[tag] != want {
			t.Errorf("%s is %s", tag, b.header[tag])
		}
	}
}

func hasItsScripts(t *testing.T, b built) {
	want := map[string][]string{"deb": {"postinst", "postrm", "prerm"}, "rpm": {"POSTIN", "POSTUN", "PREIN", "PREUN"}}
	var names []string
	for name, text := range b.scripts {
		names = append(names, name)
		check := exec.Command("sh", "-n")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, want[b.kind]) {
		t.Errorf("%v", names)
	}
}
