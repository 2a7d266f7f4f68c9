// Command workload is what runs in the containers of the real nodes, and what prepares them.
//
// Purpose:
//
//	workload pause   holds the namespaces of a pod (the sandbox image of containerd)
//	workload write   the pod that must never run twice: appends who and when it is to LOG each 100 ms
//	workload check   refuses unless nothing in an agent's container can reset the machine under the tests
//	workload hook    an OCI hook: takes sysrq away from each container and gives it the boot ID of its node
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sysrq = "/proc/sysrq-trigger"
	boot  = "/proc/sys/kernel/random/boot_id"
	// The host as the agent sees it: its pod shares the PID namespace of the node.
	host   = "/proc/1/root"
	period = 100 * time.Millisecond
)

func main() {
	modes := map[string]func() error{"pause": pause, "write": write, "check": check, "hook": hook}
	mode, known := "", false
	if len(os.Args) == 2 {
		mode = os.Args[1]
		_, known = modes[mode]
	}
	if !known {
		fmt.Fprintln(os.Stderr, "usage: workload pause|write|check|hook")
		os.Exit(2)
	}
	if err := modes[mode](); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", mode, err)
		os.Exit(1)
	}
}

// ended hears the orderly end of the pod; as PID 1 of a container nothing ends us by default.
func ended() chan os.Signal {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)
	return end
}

func pause() error {
	<-ended()
	return nil
}

// write appends lines `<pod uid> <node> <start in ms> <boot-time clock in ns>`. Each is one write to a file
// opened for appending, so lines of several writers never mix. The start tells one process from the next: in
// its container each has the id 1.
func write() error {
	log, err := os.OpenFile(os.Getenv("LOG"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	end, tick := ended(), time.NewTicker(period)
	for start := int64(-1); ; {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			return err
		}
		if start < 0 {
			start = now.Nano() / int64(time.Millisecond)
		}
		line := fmt.Sprintf("%s %s %d %d\n", os.Getenv("POD_UID"), os.Getenv("NODE_NAME"), start, now.Nano())
		if _, err := log.WriteString(line); err != nil {
			return err
		}
		select {
		case <-end:
			return nil
		case <-tick.C:
		}
	}
}

// hook is called in the mount namespace of a container before its root is changed: the working directory is
// the root to be, everything else is still the node's.
func hook() error {
	var state struct{ Bundle string }
	if err := json.NewDecoder(os.Stdin).Decode(&state); err != nil {
		return err
	}
	root := filepath.Join(state.Bundle, "rootfs")
	for _, bind := range [][2]string{{"/dev/null", sysrq}, {boot, boot}} {
		err := unix.Mount(bind[0], root+bind[1], "", unix.MS_BIND, "")
		if err == unix.ENOENT && bind[1] == sysrq {
			// A kernel without it.
			continue
		}
		if err != nil {
			return fmt.Errorf("bind %s over %s: %w", bind[0], root+bind[1], err)
		}
	}
	return nil
}

// check runs in a container like the agent's: privileged, in the PID namespace of the node, with its /dev.
func check() error {
	node, id := os.Getenv("NODE_NAME"), os.Getenv("BOOT_ID")
	var wrong []error
	must := func(holds bool, format string, args ...any) {
		if !holds {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	name, err := os.ReadFile(host + "/run/medik8s-node")
	must(err == nil && string(name) == node, "/proc/1 is not the node %s but %q: %v", node, name, err)
	for _, root := range []string{"", host} {
		var file unix.Stat_t
		err := unix.Stat(root+sysrq, &file)
		null := file.Mode&unix.S_IFMT == unix.S_IFCHR && file.Rdev == unix.Mkdev(1, 3)
		must(err == unix.ENOENT || err == nil && null, "%s%s can reset the machine: %v", root, sysrq, err)
		seen, err := os.ReadFile(root + boot)
		must(err == nil && strings.TrimSpace(string(seen)) == id, "%s%s is %q, not that of the node: %v", root, boot, seen, err)
		devices, _ := filepath.Glob(root + "/dev/watchdog*")
		for _, device := range devices {
			must(filepath.Base(device) == "watchdog.sock", "there is a watchdog: %s", device)
		}
		socket, err := os.Stat(root + "/dev/watchdog.sock")
		must(err == nil && socket.Mode()&os.ModeSocket != 0, "there is no test watchdog in %s/dev: %v", root, err)
	}
	for _, path := range []string{"/sbin/modprobe", "/usr/sbin/modprobe"} {
		err := unix.Access(host+path, unix.X_OK)
		must(err != nil, "%s can be run", path)
	}
	// The magic numbers are wrong on purpose; the right to call is tested before them.
	_, _, errno := unix.Syscall(unix.SYS_REBOOT, 0, 0, 0)
	must(errno == unix.EPERM, "reboot(2) is not forbidden: %v", errno)
	_, _, errno = unix.Syscall(unix.SYS_FINIT_MODULE, ^uintptr(0), 0, 0)
	must(errno == unix.EPERM || errno == unix.ENOSYS, "modules may be loaded: %v", errno)
	return errors.Join(wrong...)
}
