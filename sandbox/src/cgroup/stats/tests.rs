//! Samples of the kernel's files.

use super::parse::*;
use super::*;

#[test]
fn v2_processor_time() {
    let stat = "usage_usec 2500\nuser_usec 1500\nsystem_usec 1000\nnice_usec 0\n\
                nr_periods 10\nnr_throttled 3\nthrottled_usec 7\nnr_bursts 0\nburst_usec 0\n";
    let detail = CpuDetail {
        user_ns: 1_500_000,
        system_ns: 1_000_000,
        periods: 10,
        throttled_periods: 3,
        throttled_ns: 7000,
    };
    assert_eq!(v2_cpu(stat), CpuStats { usage_ns: 2_500_000, detail: Some(detail) });
}

#[test]
fn v1_processor_time() {
    let bandwidth = "nr_periods 10\nnr_throttled 3\nthrottled_time 7000\n";
    let expected = CpuDetail {
        user_ns: 15,
        system_ns: 10,
        periods: 10,
        throttled_periods: 3,
        throttled_ns: 7000,
    };
    assert_eq!(v1_cpu("15\n", "10\n", bandwidth), expected);
}

#[test]
fn v1_memory_without_limit() {
    let stats = v1_memory(&V1Memory {
        usage: "1000\n".into(),
        stat: "cache 1\nrss 2\npgfault 3\npgmajfault 1\ntotal_cache 300\ntotal_rss 400\n\
               total_inactive_file 250\ntotal_mapped_file 5\ntotal_swap 6\ntotal_pgfault 7\n\
               total_pgmajfault 8\n"
            .into(),
        max_usage: "2000\n".into(),
        limit: "9223372036854771712\n".into(),
        limit_with_swap: "9223372036854771712\n".into(),
        failures: "4\n".into(),
        swap_failures: "5\n".into(),
        kernel: "10\n".into(),
    });
    let detail = stats.detail.unwrap();
    assert_eq!(stats.working_set_bytes, 750);
    assert_eq!((stats.rss_bytes, stats.cache_bytes), (400, 300));
    assert_eq!((stats.limit_bytes, stats.swap_limit_bytes), (None, None));
    assert_eq!(stats.page_faults, Faults { all: 7, major: 8 });
    assert_eq!(stats.own_page_faults, Some(Faults { all: 3, major: 1 }));
    assert_eq!((stats.mapped_file_bytes, stats.swap_bytes), (5, 6));
    assert_eq!((detail.max_usage_bytes, detail.limit_hits), (Some(2000), 9));
    assert_eq!(detail.kernel_bytes, 10);
}

#[test]
fn v1_swap_is_what_the_limit_on_both_leaves() {
    let files = |both: &str| V1Memory {
        limit: "4096\n".into(),
        limit_with_swap: both.into(),
        ..V1Memory::default()
    };
    assert_eq!(v1_memory(&files("12288\n")).swap_limit_bytes, Some(8192));
    assert_eq!(v1_memory(&files("4096\n")).swap_limit_bytes, Some(0));
    assert_eq!(v1_memory(&files("")).swap_limit_bytes, None, "swap is not accounted");
}

#[test]
fn v2_memory_with_limit() {
    let stats = v2_memory(&V2Memory {
        current: "1000\n".into(),
        stat: "anon 400\nfile 300\nkernel 10\nfile_mapped 5\ninactive_file 1250\npgfault 7\n\
               pgmajfault 8\n"
            .into(),
        peak: String::new(),
        max: "4096\n".into(),
        swap: "6\n".into(),
        swap_max: "max\n".into(),
        events: "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n".into(),
    });
    let detail = stats.detail.unwrap();
    assert_eq!(stats.working_set_bytes, 0, "inactive cache may be read later than usage");
    assert_eq!((stats.limit_bytes, stats.swap_limit_bytes), (Some(4096), None));
    assert_eq!((stats.rss_bytes, stats.cache_bytes, stats.swap_bytes), (400, 300, 6));
    assert_eq!(stats.page_faults, Faults { all: 7, major: 8 });
    assert_eq!((detail.max_usage_bytes, detail.limit_hits), (None, 9));
    assert_eq!(detail.kernel_bytes, 10);
}

#[test]
fn block_devices() {
    let v2 = v2_io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0 \nodd line\n");
    let one = BlockIo { major: 8, minor: 16, read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };
    assert_eq!(v2.devices, [one, BlockIo { major: 8, ..BlockIo::default() }]);
    let v1 = v1_io(
        "8:16 Read 1\n8:16 Write 2\n8:16 Sync 9\n8:16 Total 3\nTotal 3\n",
        "8:16 Read 3\n8:16 Write 4\nTotal 7\n",
    );
    assert_eq!(v1.devices, [one]);
}

#[test]
fn pressure_lines() {
    let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n\
                full avg10=0.00 avg60=0.00 avg300=0.00 total=99\n";
    let found = pressure(text).unwrap();
    assert_eq!(found.some, PressureLine { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_us: 1234 });
    assert_eq!(found.full.total_us, 99);
    // Older kernels have no `full` for the processor.
    assert!(pressure(text.lines().next().unwrap()).is_some());
    assert_eq!(pressure("garbage"), None);
}

#[test]
fn keys_are_whole_words() {
    assert_eq!(keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
    assert_eq!(keyed("oom_kill_disable 0\n", "oom_kill"), None);
    assert_eq!(number("max\n"), None);
}
