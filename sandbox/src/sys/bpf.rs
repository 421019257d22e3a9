//! `bpf(2)`: loading a device program and attaching it to a cgroup.
//!
//! Only the leading fields of the kernel's `union bpf_attr` are described; the kernel takes a
//! shorter one and reads the rest as zero.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The most programs the kernel lets be attached to one group.
const MAX_PROGRAMS: u32 = 64;

/// One eBPF instruction, as the kernel lays it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
}

#[repr(C)]
struct AttachAttributes {
    target_fd: u32,
    program_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_fd: u32,
}

#[repr(C)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    padding: u32,
}

#[repr(C)]
struct IdAttributes {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads a program that decides on device access in a cgroup.
///
/// # Errors
/// `INVAL` or `ACCES` for a program the verifier refuses, `PERM` without `CAP_BPF` and
/// `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`).
///
/// # References
/// - [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_PROG_LOAD`;
///   `BPF_PROG_TYPE_CGROUP_DEVICE` since Linux 4.15
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: address(program.as_ptr()),
        license: address(c"Apache-2.0".as_ptr()),
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    // SAFETY: BPF_PROG_LOAD reads `instruction_count` instructions at `instructions` and a C
    // string at `license`. The first are those of the borrowed slice `program`, of which
    // `Instruction` has the kernel's layout; the second is a static C string. No log buffer is
    // given, so nothing is written.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    // SAFETY: a BPF_PROG_LOAD that succeeds returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a cgroup beside others, in the place of `replaced` if given.
///
/// # Errors
/// `PERM` when the group does not allow several programs, `NOENT` when `replaced` is not
/// attached.
///
/// # References
/// - [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_PROG_ATTACH`;
///   `BPF_F_REPLACE` since Linux 5.6
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let flag = if replaced.is_some() { BPF_F_REPLACE } else { 0 };
    let mut attributes = AttachAttributes {
        target_fd: number(cgroup),
        program_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | flag,
        replace_fd: replaced.map_or(0, number),
    };
    // SAFETY: BPF_PROG_ATTACH has no pointers; its descriptors are borrowed over the call.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// `NOENT` when it is not attached.
///
/// # References
/// - [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_PROG_DETACH`
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = AttachAttributes {
        target_fd: number(cgroup),
        program_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
        replace_fd: 0,
    };
    // SAFETY: BPF_PROG_DETACH has no pointers; its descriptors are borrowed over the call.
    unsafe { bpf(BPF_PROG_DETACH, &mut attributes) }.map(drop)
}

/// The ids of the device programs attached to a cgroup itself.
///
/// # Errors
/// `BADF` when `cgroup` is not a directory of the unified hierarchy (an `O_PATH` descriptor is
/// not enough).
///
/// # References
/// - [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_PROG_QUERY`, Linux 4.15
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0_u32; MAX_PROGRAMS as usize];
    let mut attributes = QueryAttributes {
        target_fd: number(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        program_ids: address(ids.as_mut_ptr()),
        program_count: MAX_PROGRAMS,
        padding: 0,
    };
    // SAFETY: BPF_PROG_QUERY writes at most `program_count` ids at `program_ids`, which points to
    // the exclusively held `ids` of that length, and writes the counts into `attributes`.
    unsafe { bpf(BPF_PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.program_count as usize);
    Ok(ids)
}

/// Opens a program by its id.
///
/// # Errors
/// `NOENT` when it is gone.
///
/// # References
/// - [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_PROG_GET_FD_BY_ID`,
///   Linux 4.13
pub fn open_program(id: u32) -> Result<OwnedFd, Errno> {
    let mut attributes = IdAttributes { id, next_id: 0, open_flags: 0 };
    // SAFETY: BPF_PROG_GET_FD_BY_ID has no pointers.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: a BPF_PROG_GET_FD_BY_ID that succeeds returns a new descriptor, which nobody else
    // owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attributes` is the layout of `command`, and every pointer in it is good for what that
/// command reads and writes.
unsafe fn bpf<A>(command: libc::c_int, attributes: &mut A) -> Result<libc::c_int, Errno> {
    // SAFETY: the kernel reads and writes `size_of::<A>()` bytes at `attributes`, which is
    // exclusively borrowed; what those bytes point to is the caller's promise.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            libc::c_long::from(command),
            &raw mut *attributes,
            size_of::<A>(),
        )
    };
    match libc::c_int::try_from(answer) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::INVAL, Errno::from_raw_os_error)),
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(pointer: *const T) -> u64 {
    pointer as usize as u64
}
