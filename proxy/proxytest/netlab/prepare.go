package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const resolverPath = "/etc/resolv.conf"

// prepare makes the fresh namespaces fit to live in. Mounts become private
// before anything is mounted, so that nothing shows outside.
func prepare(options Options) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	// Where resolv.conf leads is asked before /run is covered, for it is often a
	// link into it.
	resolver, err := resolverFile()
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if err := os.Mkdir("/run/lock", 0o755); err != nil {
		return err
	}
	text := options.Resolver
	if text == "" {
		text = "nameserver 127.0.0.1\n"
	}
	if err := ownResolver(resolver, text); err != nil {
		return fmt.Errorf("%s: %w", resolverPath, err)
	}
	return loopbackUp()
}

// resolverFile follows the links of resolv.conf, also where the last one leads
// nowhere; empty when there is no such file at all.
func resolverFile() (string, error) {
	path := resolverPath
	for range 8 {
		target, err := os.Readlink(path)
		switch {
		case errors.Is(err, os.ErrNotExist) && path == resolverPath:
			return "", nil
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.EINVAL):
			return path, nil
		case err != nil:
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return "", fmt.Errorf("%s: too many links", resolverPath)
}

// ownResolver puts the text where programs look for resolv.conf, in this mount
// namespace alone. Without the file programs ask 127.0.0.1 anyway.
func ownResolver(path, text string) error {
	if path == "" {
		return nil
	}
	if strings.HasPrefix(path, "/var/run/") {
		path = strings.TrimPrefix(path, "/var")
	}
	if strings.HasPrefix(path, "/run/") {
		// /run is already our own tmpfs: the file need only be made.
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(text), 0o644)
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	const own = "/run/netlab-resolv.conf"
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		return err
	}
	return unix.Mount(own, path, "", unix.MS_BIND, "")
}

// SetResolver replaces the lab's resolv.conf. It writes in place, for the file
// is a bind mount, and must only be called inside a lab.
func SetResolver(text string) error {
	file, err := os.OpenFile(resolverPath, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("netlab: %w", err)
	}
	_, err = file.WriteString(text)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

func loopbackUp() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("lo up: %w", err)
	}
	return nil
}
