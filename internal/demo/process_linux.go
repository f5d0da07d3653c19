package demo

import "syscall"

// childAttributes: a group of its own, so that Ctrl-C in the terminal reaches the demonstration alone, which then ends its processes
// in order; and the kernel ends them if the demonstration dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
