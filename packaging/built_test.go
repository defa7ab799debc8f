package packaging

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A file of a package, in the words of both kinds.
type file struct {
	mode    os.FileMode // with the bit of a directory
	owner   string      // owner:group
	config  bool
	doc     bool // or a licence
	content []byte
}

// A built package.
type built struct {
	name    string
	kind    string // deb or rpm
	arch    string // Go's word
	version string
	time    string // of everything in it
	files   map[string]file
	scripts map[string]string
	header  map[string]string
}

// packages are those that .ci/packages has built, which says where they are.
func packages(t *testing.T) []built {
	t.Helper()
	dir := os.Getenv("POSTERN_BUILT")
	if dir == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("POSTERN_BUILT names no directory of packages")
		}
		t.Skip("POSTERN_BUILT names no directory of packages: make packages, and say build/packages")
	}
	names, err := filepath.Glob(filepath.Join(dir, "postern*"))
	if err != nil || len(names) != 4 {
		t.Fatalf("%v in %s, %v", names, dir, err)
	}
	var list []built
	for _, path := range names {
		b := built{name: filepath.Base(path), kind: strings.TrimPrefix(filepath.Ext(path), ".")}
		if b.kind == "deb" {
			b.readDeb(t, path)
		} else {
			b.readRPM(t, path)
		}
		list = append(list, b)
	}
	return list
}

func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v %s", name, args, err, complaints.String())
	}
	return out
}

func (b *built) readDeb(t *testing.T, path string) {
	t.Helper()
	b.header, b.files, b.scripts = map[string]string{}, map[string]file{}, map[string]string{}
	for _, line := range strings.Split(string(output(t, "dpkg-deb", "--field", path)), "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, " ") {
			b.header[name] = value
		}
	}
	b.version, b.arch = b.header["Version"], b.header["Architecture"]
	control := b.tarred(t, output(t, "dpkg-deb", "--ctrl-tarfile", path))
	for name, f := range control {
		if slices.Contains([]string{"/preinst", "/postinst", "/prerm", "/postrm"}, name) {
			b.scripts[strings.TrimPrefix(name, "/")] = string(f.content)
		}
	}
	b.files = b.tarred(t, output(t, "dpkg-deb", "--fsys-tarfile", path))
	for _, name := range strings.Fields(string(control["/conffiles"].content)) {
		f := b.files[name]
		f.config = true
		b.files[name] = f
	}
}

// dated holds that all is of one time, which is none at which anybody built.
func (b *built) dated(t *testing.T, name, when string) {
	t.Helper()
	if b.time == "" {
		b.time = when
	}
	if when != b.time {
		t.Errorf("%s: time %s, where others have %s", name, when, b.time)
	}
}

// tarred reads an archive, whose entries must not say who built it.
func (b *built) tarred(t *testing.T, data []byte) map[string]file {
	t.Helper()
	files := map[string]file{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		b.dated(t, h.Name, strconv.FormatInt(h.ModTime.Unix(), 10))
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s: owner %d:%d", h.Name, h.Uid, h.Gid)
		}
		owner := strings.TrimPrefix(h.Uname+":"+h.Gname, ":")
		if owner == "" {
			owner = "root:root"
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "."), "/")
		files[name] = file{mode: h.FileInfo().Mode(), owner: owner, content: content}
	}
}

// query asks rpm of a file, and keeps no database.
func query(t *testing.T, path, format string) string {
	t.Helper()
	return string(output(t, "rpm", "--dbpath", t.TempDir(), "-qp", "--nosignature", "--qf", format, path))
}

func (b *built) readRPM(t *testing.T, path string) {
	t.Helper()
	b.header, b.files, b.scripts = map[string]string{}, map[string]file{}, map[string]string{}
	for _, tag := range []string{"VERSION", "RELEASE", "ARCH", "LICENSE", "BUILDHOST", "BUILDTIME", "SUMMARY", "CHANGELOGNAME", "CHANGELOGTIME", "PAYLOADCOMPRESSOR"} {
		b.header[tag] = query(t, path, "%{"+tag+"}")
	}
	b.header["REQUIRES"] = query(t, path, "[%{REQUIRENAME}\\n]")
	b.dated(t, "the build", b.header["BUILDTIME"])
	b.version, b.arch = b.header["VERSION"], map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[b.header["ARCH"]]
	for _, script := range []string{"PREIN", "POSTIN", "PREUN", "POSTUN", "PRETRANS", "POSTTRANS", "VERIFYSCRIPT"} {
		if text := query(t, path, "%{"+script+"}"); text != "(none)" {
			b.scripts[script] = text
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(query(t, path,
		"[%{FILENAMES}\\t%{FILEMODES:octal}\\t%{FILEUSERNAME}:%{FILEGROUPNAME}\\t%{FILEFLAGS:fflags}\\t%{FILEMTIMES}\\n]")), "\n") {
		fields := strings.Split(line, "\t")
		mode, err := strconv.ParseUint(fields[1], 8, 32)
		if err != nil {
			t.Fatal(err)
		}
		f := file{mode: os.FileMode(mode & 0o7777), owner: fields[2], config: fields[3] == "cn", doc: strings.ContainsAny(fields[3], "dl")}
		if mode&0o170000 == 0o040000 {
			f.mode |= os.ModeDir
		}
		b.dated(t, fields[0], fields[4])
		b.files[fields[0]] = f
	}
	b.readPayload(t, path)
}

// readPayload reads the contents, by rpm's own program: the names in the archive
// are absolute, and cpio would write them over this machine.
func (b *built) readPayload(t *testing.T, path string) {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command("rpm2archive", "--nocompression", "-")
	cmd.Stdin = in
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("rpm2archive: %v", err)
	}
	for name, archived := range b.tarred(t, data) {
		f, ok := b.files[name]
		if !ok {
			t.Errorf("%s is in the archive and not in the header", name)
		}
		f.content = archived.content
		b.files[name] = f
	}
}
