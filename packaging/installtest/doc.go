// Package installtest installs the packages on machines that really boot, and
// holds what is promised of them against what happens: nothing starts by being
// installed, connections wait through restart, upgrade and crash, a reboot leaves
// no gap, and what is removed is gone.
//
// A machine is a tree of Debian's in a systemd container, in a network namespace
// between a client and a server. "make test-packages" makes packages and trees,
// which takes root and Debian, and runs these tests; "go test ./..." does not, for
// they stand behind the build tag "install".
//
// It tests packages and units. What interception and sessions do in every case is
// tested where they are.
package installtest
