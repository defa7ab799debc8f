package cluster

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	defaultPort  = 6379
	mostDatabase = 1<<16 - 1
)

// An Address says where a server is and how one comes in. The zero Address is none.
// However it is printed, the password is not.
type Address struct {
	network      string // "tcp" or "unix"
	place        string // host:port, or the path of a socket
	tls          bool
	ca           string // a file of PEM roots; "" stands for the system's
	user         string
	password     string
	passwordFile string
	database     int
}

// Schemes are those of an Address.
func Schemes() []string { return []string{"redis", "rediss", "unix", "redis+unix"} }

// Expected is what ParseAddress takes, for people.
const Expected = `"redis://[user[:password]@]host[:port][/database]" (rediss: with TLS) or "unix:///path/of/a.sock[?db=database]"`

// ParseAddress reads an address. The error says what is wrong with it, and quotes
// nothing of what may be a password.
//
//	redis://host:6379/0               the port and the database are those by default
//	rediss://user:password@host/1     with TLS; ?ca=/file.pem has roots of its own
//	redis://user@host?password_file=/etc/postern/redis.password
//	unix:///run/redis/redis.sock?db=1  or redis+unix://
func ParseAddress(s string) (Address, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Address{}, errors.New("a port that is no number, or what no URL has in it") // its own text would quote that
	}
	if u.Fragment != "" || u.Opaque != "" || strings.ContainsAny(s, "#\x00") {
		return Address{}, errors.New("a # in it, or no // behind the scheme; in a password that is %23")
	}
	a := Address{user: u.User.Username()}
	a.password, _ = u.User.Password()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Address{}, errors.New("parameters that cannot be read")
	}
	database := ""
	switch u.Scheme {
	case "redis", "rediss":
		a.network, a.tls = "tcp", u.Scheme == "rediss"
		if a.place, err = hostPort(u); err != nil {
			return Address{}, err
		}
		database = strings.TrimPrefix(u.Path, "/")
	case "unix", "redis+unix":
		a.network, a.place = "unix", u.Path
		if u.Host != "" || !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) != u.Path {
			return Address{}, errors.New("no absolute path of a socket")
		}
		database = query.Get("db")
	default:
		return Address{}, errors.New("no scheme that is known")
	}
	if a.database, err = number(database, mostDatabase); err != nil {
		return Address{}, errors.New("a database that is no number from 0")
	}
	return a, a.parameters(query)
}

func hostPort(u *url.URL) (string, error) {
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.Trim(strings.ToLower(host), "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "") {
		return "", errors.New("no host")
	}
	port := defaultPort
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		n, err := number(p, 1<<16-1)
		if err != nil || n == 0 {
			return "", errors.New("a port that is none")
		}
		port = n
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

func number(s string, most int) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || int(n) > most || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("no number")
	}
	return int(n), nil
}

func (a *Address) parameters(query url.Values) error {
	for key, values := range query {
		known := key == "password_file" || key == "ca" && a.tls || key == "db" && a.network == "unix"
		if !known || len(values) != 1 {
			return errors.New("a parameter that is not known here, or twice: password_file, ca (rediss), db (unix)")
		}
		if key != "db" && (!filepath.IsAbs(values[0]) || filepath.Clean(values[0]) != values[0]) {
			return errors.New(key + " that is no absolute path")
		}
	}
	a.passwordFile, a.ca = query.Get("password_file"), query.Get("ca")
	switch {
	case a.password != "" && a.passwordFile != "":
		return errors.New("a password and a password_file")
	case a.user != "" && a.password == "" && a.passwordFile == "":
		return errors.New("a user and no password (a lone password is written redis://:password@host)")
	}
	return nil
}

// IsZero: there is no server.
func (a Address) IsZero() bool { return a == Address{} }

// Equal reports whether a and b are the same, by whatever way they come in.
func (a Address) Equal(b Address) bool { return a == b }

// Check reads the files that a names, a password's and the roots', and says what is
// wrong with them.
func (a Address) Check() error {
	_, err := a.secret()
	if _, wrong := a.roots(); wrong != nil {
		err = errors.Join(err, wrong)
	}
	return err
}

// String is for people: where the server is, without how one comes in.
func (a Address) String() string {
	switch {
	case a.IsZero():
		return ""
	case a.network == "unix":
		return "unix://" + a.place + "?db=" + strconv.Itoa(a.database)
	case a.tls:
		return "rediss://" + a.place + "/" + strconv.Itoa(a.database)
	}
	return "redis://" + a.place + "/" + strconv.Itoa(a.database)
}

// GoString is String, also for %#v.
func (a Address) GoString() string { return a.String() }

// MarshalText is String, also for JSON.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
