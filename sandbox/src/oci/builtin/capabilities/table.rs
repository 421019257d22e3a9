//! The 41 capabilities of Linux 5.9 and later, by number.
//!
//! The order of [`ALL`] is the order of `include/uapi/linux/capability.h`; a test holds it
//! against the constants of `rustix`.

use oci_spec::runtime::Capability;

/// All capabilities; the index is the kernel's number.
pub const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The kernel's number of a capability.
#[must_use]
pub const fn number(capability: Capability) -> u8 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

/// The name of a capability as the specifications write it, `CAP_` included.
#[must_use]
pub const fn name(capability: Capability) -> &'static str {
    match capability {
        Capability::Chown => "CAP_CHOWN",
        Capability::DacOverride => "CAP_DAC_OVERRIDE",
        Capability::DacReadSearch => "CAP_DAC_READ_SEARCH",
        Capability::Fowner => "CAP_FOWNER",
        Capability::Fsetid => "CAP_FSETID",
        Capability::Kill => "CAP_KILL",
        Capability::Setgid => "CAP_SETGID",
        Capability::Setuid => "CAP_SETUID",
        Capability::Setpcap => "CAP_SETPCAP",
        Capability::LinuxImmutable => "CAP_LINUX_IMMUTABLE",
        Capability::NetBindService => "CAP_NET_BIND_SERVICE",
        Capability::NetBroadcast => "CAP_NET_BROADCAST",
        Capability::NetAdmin => "CAP_NET_ADMIN",
        Capability::NetRaw => "CAP_NET_RAW",
        Capability::IpcLock => "CAP_IPC_LOCK",
        Capability::IpcOwner => "CAP_IPC_OWNER",
        Capability::SysModule => "CAP_SYS_MODULE",
        Capability::SysRawio => "CAP_SYS_RAWIO",
        Capability::SysChroot => "CAP_SYS_CHROOT",
        Capability::SysPtrace => "CAP_SYS_PTRACE",
        Capability::SysPacct => "CAP_SYS_PACCT",
        Capability::SysAdmin => "CAP_SYS_ADMIN",
        Capability::SysBoot => "CAP_SYS_BOOT",
        Capability::SysNice => "CAP_SYS_NICE",
        Capability::SysResource => "CAP_SYS_RESOURCE",
        Capability::SysTime => "CAP_SYS_TIME",
        Capability::SysTtyConfig => "CAP_SYS_TTY_CONFIG",
        Capability::Mknod => "CAP_MKNOD",
        Capability::Lease => "CAP_LEASE",
        Capability::AuditWrite => "CAP_AUDIT_WRITE",
        Capability::AuditControl => "CAP_AUDIT_CONTROL",
        Capability::Setfcap => "CAP_SETFCAP",
        Capability::MacOverride => "CAP_MAC_OVERRIDE",
        Capability::MacAdmin => "CAP_MAC_ADMIN",
        Capability::Syslog => "CAP_SYSLOG",
        Capability::WakeAlarm => "CAP_WAKE_ALARM",
        Capability::BlockSuspend => "CAP_BLOCK_SUSPEND",
        Capability::AuditRead => "CAP_AUDIT_READ",
        Capability::Perfmon => "CAP_PERFMON",
        Capability::Bpf => "CAP_BPF",
        Capability::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
    }
}

/// The capability of a name: with or without `CAP_`, in any case, as CRI clients send them.
///
/// `None` for an unknown name; "ALL" is not a capability, see [`super::bounding_set`].
#[must_use]
pub fn parse(text: &str) -> Option<Capability> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|one| name(*one).strip_prefix("CAP_") == Some(bare))
}
