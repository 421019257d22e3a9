//! The default profile as data: one group of related system calls per line.
//!
//! Names that an architecture does not have are ignored by the OCI runtime, so the 32-bit
//! forms stand beside the others.
//!
//! # References
//! - [syscalls(2)](https://man7.org/linux/man-pages/man2/syscalls.2.html)

use oci_spec::runtime::Capability;

/// Allowed to every container, whatever the arguments.
#[rustfmt::skip]
pub(super) const ALWAYS: &[&[&str]] = &[
    // Files: open, read, write, seek.
    &["open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3"],
    &["read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2"],
    &["lseek", "_llseek", "readahead", "fadvise64", "fadvise64_64", "arm_fadvise64_64", "cachestat"],
    &["sendfile", "sendfile64", "splice", "tee", "vmsplice", "copy_file_range"],
    &["fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_file_range2", "arm_sync_file_range"],
    &["truncate", "truncate64", "ftruncate", "ftruncate64", "fallocate", "flock", "fcntl", "fcntl64", "ioctl"],
    // Files: names and attributes.
    &["stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "newfstatat", "fstatat64", "statx", "oldstat", "oldlstat", "oldfstat"],
    &["statfs", "statfs64", "fstatfs", "fstatfs64", "statmount", "listmount"],
    &["access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "readdir"],
    &["link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rename", "renameat", "renameat2"],
    &["mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "name_to_handle_at"],
    &["chdir", "fchdir", "getcwd", "umask"],
    &["chmod", "fchmod", "fchmodat", "fchmodat2"],
    &["chown", "chown32", "fchown", "fchown32", "lchown", "lchown32", "fchownat"],
    &["utime", "utimes", "futimesat", "utimensat", "utimensat_time64"],
    &["getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat"],
    &["setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat"],
    &["file_getattr", "file_setattr"],
    &["inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark"],
    // Waiting for many.
    &["select", "_newselect", "pselect6", "pselect6_time64", "poll", "ppoll", "ppoll_time64"],
    &["epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_wait", "epoll_wait_old", "epoll_pwait", "epoll_pwait2"],
    &["eventfd", "eventfd2", "signalfd", "signalfd4", "pipe", "pipe2"],
    &["timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64"],
    &["io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_pgetevents_time64"],
    // Sockets that exist; making one is a matter of its family.
    &["bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt"],
    &["send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64"],
    // Memory.
    &["brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "process_madvise", "mincore", "msync", "mseal"],
    &["mlock", "mlock2", "mlockall", "munlock", "munlockall", "remap_file_pages", "map_shadow_stack"],
    &["pkey_alloc", "pkey_free", "pkey_mprotect", "memfd_create", "memfd_secret", "membarrier", "cacheflush", "process_mrelease"],
    // Processes and threads.
    &["fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "waitpid"],
    &["getpid", "getppid", "gettid", "getpgid", "getpgrp", "getsid", "setpgid", "setsid", "set_tid_address"],
    &["kill", "tkill", "tgkill", "pidfd_open", "pidfd_send_signal"],
    &["ptrace", "process_vm_readv", "process_vm_writev"],
    &["prctl", "arch_prctl", "set_thread_area", "get_thread_area", "set_tls", "modify_ldt", "uretprobe", "uprobe"],
    &["futex", "futex_time64", "futex_waitv", "futex_wait", "futex_wake", "futex_requeue", "set_robust_list", "get_robust_list", "rseq"],
    &["riscv_flush_icache", "riscv_hwprobe", "breakpoint", "s390_runtime_instr", "s390_pci_mmio_read", "s390_pci_mmio_write", "swapcontext", "switch_endian"],
    // Signals.
    &["signal", "sigaction", "sigprocmask", "sigpending", "sigsuspend", "sigreturn", "sigaltstack", "pause", "restart_syscall"],
    &["rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigsuspend", "rt_sigreturn", "rt_sigqueueinfo", "rt_tgsigqueueinfo"],
    &["rt_sigtimedwait", "rt_sigtimedwait_time64"],
    // Scheduling and limits.
    &["nice", "getpriority", "setpriority", "ioprio_get", "ioprio_set", "sched_yield", "getcpu"],
    &["sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr", "sched_getparam", "sched_setparam"],
    &["sched_getscheduler", "sched_setscheduler", "sched_get_priority_max", "sched_get_priority_min"],
    &["sched_rr_get_interval", "sched_rr_get_interval_time64"],
    &["getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage", "times", "sysinfo", "uname", "olduname", "oldolduname"],
    // Identity; the kernel asks for capabilities where they matter.
    &["getuid", "getuid32", "geteuid", "geteuid32", "getresuid", "getresuid32"],
    &["getgid", "getgid32", "getegid", "getegid32", "getresgid", "getresgid32", "getgroups", "getgroups32"],
    &["setuid", "setuid32", "setreuid", "setreuid32", "setresuid", "setresuid32", "setfsuid", "setfsuid32"],
    &["setgid", "setgid32", "setregid", "setregid32", "setresgid", "setresgid32", "setfsgid", "setfsgid32", "setgroups", "setgroups32"],
    &["capget", "capset", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"],
    &["lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules"],
    // Time.
    &["time", "gettimeofday", "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64"],
    &["nanosleep", "clock_nanosleep", "clock_nanosleep_time64", "alarm", "getitimer", "setitimer"],
    &["timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64"],
    &["adjtimex", "clock_adjtime", "clock_adjtime64"],
    // System V and POSIX IPC.
    &["ipc", "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semtimedop_time64", "semctl"],
    &["msgget", "msgsnd", "msgrcv", "msgctl"],
    &["mq_open", "mq_unlink", "mq_notify", "mq_getsetattr", "mq_timedsend", "mq_timedsend_time64", "mq_timedreceive", "mq_timedreceive_time64"],
    &["getrandom"],
];

/// Allowed in addition to a container that has the capability.
#[rustfmt::skip]
pub(super) const WITH_CAPABILITY: &[(Capability, &[&[&str]])] = &[
    (Capability::DacReadSearch, &[&["open_by_handle_at"]]),
    (Capability::SysAdmin, &[
        &["mount", "umount", "umount2", "pivot_root", "mount_setattr", "move_mount", "open_tree", "open_tree_attr"],
        &["fsopen", "fsconfig", "fsmount", "fspick", "quotactl", "quotactl_fd", "lookup_dcookie", "fanotify_init"],
        &["setns", "unshare", "clone", "clone3", "sethostname", "setdomainname"],
        &["bpf", "perf_event_open", "syslog", "add_key", "request_key", "keyctl"],
    ]),
    (Capability::SysBoot, &[&["reboot"]]),
    (Capability::SysChroot, &[&["chroot"]]),
    (Capability::SysModule, &[&["init_module", "finit_module", "delete_module"]]),
    (Capability::SysPacct, &[&["acct"]]),
    (Capability::SysPtrace, &[&["kcmp", "pidfd_getfd", "userfaultfd"]]),
    (Capability::SysRawio, &[&["iopl", "ioperm"]]),
    (Capability::SysTime, &[&["settimeofday", "stime", "clock_settime", "clock_settime64"]]),
    (Capability::SysTtyConfig, &[&["vhangup"]]),
    (Capability::SysNice, &[&["get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "mbind", "migrate_pages", "move_pages"]]),
    (Capability::Syslog, &[&["syslog"]]),
    (Capability::Bpf, &[&["bpf"]]),
    (Capability::Perfmon, &[&["perf_event_open"]]),
];

/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET` of `clone`'s
/// flags: without `CAP_SYS_ADMIN` none of them may be set. (`CLONE_NEWTIME` is not a flag
/// of `clone`.)
pub(super) const CLONE_NEW_NAMESPACES: u64 = 0x7E02_0000;

/// Execution domains: Linux, 32-bit Linux, each with and without the old version number
/// (`UNAME26`), and the question which one it is.
pub(super) const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// Socket families as (mask, value) over the low 32 bits, which are all the kernel looks
/// at: a plain comparison of 64 bits could be cheated by setting a high one. Together they
/// are 0 to 47 (the kernel's `AF_MAX` is 46) without `AF_ALG` (38) and `AF_VSOCK` (40).
pub(super) const SOCKET_FAMILIES: [(u64, u64); 7] = [
    (0xffff_ffe0, 0),
    (0xffff_fffc, 32),
    (0xffff_fffe, 36),
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42),
    (0xffff_fffc, 44),
];

/// Operations of the 32-bit multiplexer `socketcall`, in the same form: 2 to 20, which is
/// all but `SYS_SOCKET` (1), whose family lies in memory where a filter cannot look. A
/// 32-bit program must use `socket` itself, as every libc does that expects Linux 4.3.
pub(super) const SOCKETCALLS: [(u64, u64); 5] =
    [(0xffff_fffe, 2), (0xffff_fffc, 4), (0xffff_fff8, 8), (0xffff_fffc, 16), (0xffff_ffff, 20)];
