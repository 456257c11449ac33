"""Names of system calls, in groups: the default filter, and the wildcards that images may use.

``ALLOWED`` is the default filter (``@rkt/default-whitelist``): what ordinary programs need. What it leaves
out is in ``DENIED`` with a reason per group; calls that a capability makes meaningful are in
``WITH_CAPABILITY``. Calls newer than all of these get ENOSYS from the OCI runtime, so that programs use
their fallbacks.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32
fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64
fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64
getxattr getxattrat ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr
lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat
_llseek open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readdir
readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile
sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync
sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat
utimensat_time64 utimes vmsplice write writev pipe pipe2 inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch
"""
_WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select _newselect
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit signalfd
signalfd4 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""
_MEMORY = """
brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
pkey_mprotect process_mrelease remap_file_pages
"""
_PROCESSES = """
alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64
futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid
geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid
getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
modify_ldt nanosleep pause pidfd_open pidfd_send_signal pidfd_getfd prctl prlimit64 ptrace
restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid
setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sysinfo
tgkill tkill ugetrlimit uname vfork wait4 waitid waitpid process_vm_readv process_vm_writev times
"""
_SIGNALS = """
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signal sigaction sigpending sigprocmask
sigreturn sigsuspend
"""
_TIME = """
adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
clock_gettime64 clock_nanosleep clock_nanosleep_time64 gettimeofday time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
"""
_NETWORK = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socket socketcall
socketpair
"""
_IPC = """
ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
semtimedop_time64 shmat shmctl shmdt shmget
"""

ALLOWED = _words(_FILES + _WAITING + _MEMORY + _PROCESSES + _SIGNALS + _TIME + _NETWORK + _IPC)

#: Allowed in addition when the app keeps the capability: the kernel asks for it anyway.
WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": frozenset({"open_by_handle_at"}),
    "CAP_SYS_ADMIN": _words("""
    bpf clone clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick mount
    mount_setattr move_mount open_tree perf_event_open pivot_root quotactl quotactl_fd
    setdomainname sethostname setns syslog umount umount2 unshare lookup_dcookie
    """),
    "CAP_SYS_BOOT": frozenset({"reboot"}),
    "CAP_SYS_CHROOT": frozenset({"chroot"}),
    "CAP_SYS_MODULE": frozenset({"delete_module", "finit_module", "init_module"}),
    "CAP_SYS_NICE": frozenset({"get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"}),
    "CAP_SYS_PACCT": frozenset({"acct"}),
    "CAP_SYS_PTRACE": frozenset({"kcmp", "process_madvise"}),
    "CAP_SYS_RAWIO": frozenset({"ioperm", "iopl"}),
    "CAP_SYS_TIME": frozenset({"clock_settime", "clock_settime64", "settimeofday", "stime"}),
    "CAP_SYS_TTY_CONFIG": frozenset({"vhangup"}),
    "CAP_SYSLOG": frozenset({"syslog"}),
    "CAP_BPF": frozenset({"bpf"}),
    "CAP_PERFMON": frozenset({"perf_event_open"}),
}

#: What no app needs without saying so: our own filter below every remove-set (ISO-12, ISO-13).
DENIED = _words("""
    add_key keyctl request_key kexec_file_load kexec_load reboot create_module delete_module
    finit_module init_module query_module get_kernel_syms swapoff swapon nfsservctl acct
    quotactl quotactl_fd clock_settime clock_settime64 settimeofday stime ioperm iopl
    pciconfig_iobase pciconfig_read pciconfig_write bpf perf_event_open userfaultfd
    lookup_dcookie open_by_handle_at fanotify_init io_uring_enter io_uring_register
    io_uring_setup fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree
    pivot_root umount umount2 setns unshare _sysctl sysfs uselib ustat vm86 vm86old
    """)

#: What the runtime and the C library need to bring an app to life and to end it (ISO-17).
LIFE_CYCLE = _words("""
    arch_prctl brk capget capset chdir clone clone3 close close_range dup2 dup3 epoll_ctl execve
    exit exit_group faccessat faccessat2 fchdir fchown fcntl fstat fstatfs futex getcwd
    getdents64 getegid geteuid getgid getpid getppid getrandom gettid getuid ioctl keyctl lseek
    mmap mprotect munmap nanosleep newfstatat openat openat2 pipe2 prctl prlimit64 read
    readlinkat restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity
    sched_yield set_robust_list set_tid_address setgid setgroups setresgid setresuid setsid
    setuid sigaltstack sigreturn stat statfs statx tgkill umask write
    """)

_CLOCK = _words("adjtimex clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime")
_RAW_IO = _words("""
    ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write s390_pci_mmio_read
    s390_pci_mmio_write
    """)

WILDCARDS: dict[str, frozenset[str]] = {
    "@rkt/default-whitelist": ALLOWED | {"clone", "clone3", "personality", "chroot"},
    "@docker/default-whitelist": ALLOWED | {"clone", "clone3", "personality", "chroot"},
    "@rkt/default-blacklist": DENIED,
    "@docker/default-blacklist": DENIED,
    "@systemd/clock": _CLOCK,
    "@systemd/mount": _words("""
    chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root
    umount umount2
    """),
    "@systemd/network-io": _words(_NETWORK),
    "@systemd/obsolete": _words("""
    _sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle lock
    mpx prof profil putpmsg query_module security sgetmask ssetmask stime stty sysfs tuxcall
    ulimit uselib ustat vserver
    """),
    "@systemd/privileged": _CLOCK
    | _RAW_IO
    | _words("""
    _sysctl acct bpf capset chown chown32 chroot delete_module fanotify_init fanotify_mark
    fchown fchown32 fchownat finit_module init_module kexec_file_load kexec_load lchown lchown32
    nfsservctl open_by_handle_at pivot_root quotactl quotactl_fd reboot setdomainname setfsuid
    setfsuid32 setgroups setgroups32 sethostname setresuid setresuid32 setreuid setreuid32
    setuid setuid32 swapoff swapon vhangup
    """),
    "@systemd/process": _words("""
    capget clone clone3 execveat fork getrusage kill pidfd_open pidfd_send_signal prctl
    rt_sigqueueinfo rt_tgsigqueueinfo setns swapcontext tgkill times tkill unshare vfork wait4
    waitid waitpid
    """),
    "@systemd/raw-io": _RAW_IO,
    "@systemd/default-whitelist": ALLOWED | {"clone", "clone3", "personality", "chroot"},
}
