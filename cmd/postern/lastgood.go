package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"postern/cmd/internal/config"
)

// interceptionOrLastGood is loadInterception, but where that fails and a copy is
// kept it is the copy that counts, and why is said: a machine that starts with a
// broken configuration is to be guarded by the one it had, not by none.
func (o *options) interceptionOrLastGood(copied string, stderr io.Writer) (*config.File, error) {
	file, err := o.loadInterception()
	if err == nil || copied == "" {
		return file, err
	}
	last := &options{config: copied}
	file, lastErr := last.loadInterception()
	if lastErr != nil {
		return nil, err // what is wrong with the copy, if there is one, is not the user's to mend
	}
	fmt.Fprintf(stderr, "%v\npostern: the configuration is at fault: interception is put in force as it was the last time (%s)\n", err, copied)
	return file, nil
}

// keepLastGood copies a configuration that is in force now, whole or not at all.
func (o *options) keepLastGood(copied string) error {
	if copied == "" || o.config == copied {
		return nil
	}
	text, err := os.ReadFile(o.config)
	if err != nil {
		return err
	}
	made, err := os.CreateTemp(filepath.Dir(copied), ".new-*")
	if err != nil {
		return err
	}
	_, err = made.Write(text)
	err = errors.Join(err, made.Sync(), made.Close())
	if err == nil {
		err = os.Rename(made.Name(), copied)
	}
	if err != nil {
		return errors.Join(err, os.Remove(made.Name()))
	}
	return nil
}
