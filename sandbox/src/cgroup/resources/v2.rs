//! The files of v2.
//!
//! # References
//! - [Control Group v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers)

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory};

use super::ResourceError;
use super::convert::{Swap, io_weight_of_blkio, swap_alone, weight_of_shares};
use super::plan::{Present, SkipIf, Step, Write};
use super::v1::page_size;
use crate::cgroup::hierarchies::Controller::{self, Blkio, Cpu, Hugetlb, Memory};
use crate::cgroup::hierarchies::{Hierarchies, Version};

pub(super) fn memory(memory: &LinuxMemory) -> Result<Vec<Step>, ResourceError> {
    let (limit, both) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    let limit_write = (limit != 0).then(|| Write::new(Memory, "memory.max", or_max(limit)));
    let swap = match swap_alone(limit, both) {
        Swap::Keep => None,
        Swap::Set(bytes) => {
            let value = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
            // Without swap accounting there is usually no swap: no limit and no swap both hold.
            let skip = SkipIf::when(matches!(bytes, None | Some(0)));
            Some(Write::new(Memory, "memory.swap.max", value).skip_if(skip))
        }
        Swap::Invalid => {
            return Err(ResourceError::InvalidValue {
                setting: format!("memory and swap, with a memory limit of {limit},"),
                value: both.to_string(),
            });
        }
    };
    let reservation = memory
        .reservation()
        .filter(|bytes| *bytes != 0)
        .map(|bytes| Write::new(Memory, "memory.low", or_max(bytes)));
    Ok([limit_write, swap, reservation].into_iter().flatten().map(|write| vec![write]).collect())
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

pub(super) fn cpu(cpu: &LinuxCpu, present: &Present<'_>) -> Result<Vec<Step>, ResourceError> {
    if cpu.realtime_period().is_some_and(|one| one != 0)
        || cpu.realtime_runtime().is_some_and(|one| one != 0)
    {
        let setting = "cpu real-time runtime".to_owned();
        return Err(ResourceError::NotInVersion { setting, version: Version::V2 });
    }
    let share = [
        cpu.shares()
            .filter(|shares| *shares != 0)
            .map(|shares| Write::new(Cpu, "cpu.weight", weight_of_shares(shares))),
        cpu.idle().map(|idle| Write::new(Cpu, "cpu.idle", idle).skip_if(SkipIf::when(idle == 0))),
    ];
    let bandwidth = [
        bandwidth(cpu, present).map(|value| Write::new(Cpu, "cpu.max", value)),
        cpu.burst()
            .map(|burst| Write::new(Cpu, "cpu.max.burst", burst).skip_if(SkipIf::when(burst == 0))),
    ];
    Ok(vec![share.into_iter().flatten().collect(), bandwidth.into_iter().flatten().collect()])
}

/// `cpu.max` is quota and period in one: an absent quota is the present one.
fn bandwidth(cpu: &LinuxCpu, present: &Present<'_>) -> Option<String> {
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    match (quota.map(or_max), period) {
        (None, None) => None,
        // The kernel keeps the period when it is not written.
        (Some(quota), None) => Some(quota),
        (Some(quota), Some(period)) => Some(format!("{quota} {period}")),
        (None, Some(period)) => {
            let text = present(Cpu, "cpu.max").unwrap_or_default();
            let quota = text.split_whitespace().next().unwrap_or("max");
            Some(format!("{quota} {period}"))
        }
    }
}

pub(super) fn block_io(block: &LinuxBlockIo, present: &Present<'_>) -> Vec<Step> {
    let positive = |weight: Option<u16>| weight.filter(|weight| *weight != 0);
    // BFQ has a file of its own, with the range of v1.
    let bfq = present(Blkio, "io.bfq.weight").is_some();
    let weight = |key: &str, weight: u16| {
        if bfq {
            Write::new(Blkio, "io.bfq.weight", format!("{key} {weight}"))
                .line(key, format!("{key} 100"))
        } else {
            let weight = io_weight_of_blkio(weight);
            Write::new(Blkio, "io.weight", format!("{key} {weight}"))
                .line(key, format!("{key} default"))
        }
    };
    let own = positive(block.weight()).map(|one| weight("default", one));
    let devices = block.weight_device().iter().flatten().filter_map(|one| {
        let key = format!("{}:{}", one.major(), one.minor());
        positive(one.weight()).map(|one| weight(&key, one))
    });
    let throttles = [
        ("rbps", block.throttle_read_bps_device()),
        ("wbps", block.throttle_write_bps_device()),
        ("riops", block.throttle_read_iops_device()),
        ("wiops", block.throttle_write_iops_device()),
    ]
    .into_iter()
    .flat_map(|(name, list)| {
        list.iter().flatten().map(move |one| {
            let key = format!("{}:{}", one.major(), one.minor());
            let rate = if one.rate() == 0 { "max".to_owned() } else { one.rate().to_string() };
            Write::new(Blkio, "io.max", format!("{key} {name}={rate}"))
                .line(&key, format!("{key} rbps=max wbps=max riops=max wiops=max"))
        })
    });
    own.into_iter().chain(devices).chain(throttles).map(|write| vec![write]).collect()
}

pub(super) fn hugetlb(limit: &LinuxHugepageLimit) -> Result<Vec<Step>, ResourceError> {
    let size = page_size(limit)?;
    let write = |file: String| Write::new(Hugetlb, &file, or_max(limit.limit()));
    let skip = SkipIf::when(limit.limit() <= 0);
    Ok(vec![
        vec![write(format!("hugetlb.{size}.max")).skip_if(skip)],
        vec![write(format!("hugetlb.{size}.rsvd.max")).skip_if(SkipIf::NothingLost)],
    ])
}

/// A file of v2 by its name, with its value word for word.
pub(super) fn unified(
    key: &str,
    value: &str,
    hierarchies: &Hierarchies,
) -> Result<Write, ResourceError> {
    let invalid = || ResourceError::InvalidValue {
        setting: format!("unified resource {key:?}"),
        value: value.to_owned(),
    };
    let (prefix, _) = key.split_once('.').ok_or_else(invalid)?;
    if key.contains('/') || value.contains('\0') {
        return Err(invalid());
    }
    let controllers = hierarchies.unified().map(|one| one.controllers.as_slice());
    let owner = controllers
        .unwrap_or_default()
        .iter()
        .copied()
        .find(|controller| controller.v2_name() == Some(prefix));
    if owner.is_none() && !(prefix == "cgroup" && controllers.is_some()) {
        return Err(absent(key, value, prefix, hierarchies));
    }
    let controller = owner.unwrap_or(Controller::Devices);
    let write = Write::new(controller, key, value);
    let write = match (prefix, value.split_whitespace().next()) {
        ("io" | "rdma" | "misc", Some(first)) => write.line(first, format!("{first} max")),
        _ => write,
    };
    Ok(Write { controller: owner, ..write })
}

/// The error for a key whose controller is not in the unified hierarchy.
fn absent(key: &str, value: &str, prefix: &str, hierarchies: &Hierarchies) -> ResourceError {
    let on_v1 = hierarchies.all().iter().any(|one| one.version == Version::V1);
    match Controller::with_v2_name(prefix) {
        Some(controller) if !on_v1 => ResourceError::NoController {
            setting: key.to_owned(),
            value: value.to_owned(),
            controller,
        },
        _ if on_v1 => ResourceError::NotInVersion {
            setting: format!("unified resource {key:?}"),
            version: Version::V1,
        },
        _ => ResourceError::NoSuchSetting { setting: key.to_owned(), value: value.to_owned() },
    }
}
