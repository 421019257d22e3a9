//! What a new user can write wrong, and what must come out of it.

use std::path::Path;

use super::load::take;
use super::setting::Findings;
use super::*;

fn problems(text: &str) -> Vec<String> {
    let (mut settings, mut findings) = (Settings::default(), Findings::default());
    take(Path::new("c.toml"), text, &mut settings, &mut findings);
    check::check(&settings, &mut findings);
    findings.problems.iter().map(ToString::to_string).collect()
}

fn settings(text: &str) -> Settings {
    let (mut settings, mut findings) = (Settings::default(), Findings::default());
    take(Path::new("c.toml"), text, &mut settings, &mut findings);
    assert_eq!(findings.problems, []);
    settings
}

#[test]
fn the_default_text_reads_back_as_the_default() {
    let text = default_text();
    assert_eq!(settings(&text), Settings::default(), "{text}");
    assert_eq!(problems(&text), Vec::<String>::new());
}

#[test]
fn the_default_text_with_every_comment_sign_removed_from_values_is_valid() {
    let uncommented: String = default_text()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with('[') => format!("{rest}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(problems(&uncommented), Vec::<String>::new(), "{uncommented}");
}

#[test]
fn every_key_is_documented() {
    let text = default_text();
    let lines: Vec<_> = text.lines().collect();
    for pair in lines.windows(2) {
        let is_key = pair[1].trim_start_matches("# ").contains(" = ");
        let example = pair[0].starts_with("# [") || pair[0].contains(" = ");
        assert!(!is_key || example || pair[0].starts_with("# "), "{}", pair[1]);
    }
}

#[test]
fn an_unknown_key_names_its_nearest_neighbour_and_its_line() {
    assert_eq!(
        problems("\n[registry]\nhost_dir = \"/x\"\n"),
        ["c.toml:3: unknown key `registry.host_dir`; did you mean `registry.hosts_dir`?"]
    );
    assert_eq!(
        problems("lsiten = \"/x\""),
        ["c.toml:1: unknown key `lsiten`; did you mean `listen`?"]
    );
    assert_eq!(
        problems("plugin_dirs = []"),
        ["c.toml:1: unknown key `plugin_dirs`; did you mean `network.plugin_dirs`?"]
    );
    assert_eq!(
        problems("[log]\nquux = 1"),
        ["c.toml:2: unknown key `log.quux`; valid here: format, level"]
    );
}

#[test]
fn all_problems_are_listed() {
    let found = problems(
        "root = 7\nstate = \"run\"\n[log]\nlevel = \"loud\"\n[registry]\nconnect_timeout = \"5 min\"\n\
         parallel_layers = -1\n[pods]\ndefault_runtime = \"buildin\"\n",
    );
    assert_eq!(
        found,
        [
            "c.toml:1: `root`: expected an absolute path, not an integer",
            "c.toml:2: `state`: expected an absolute path, not `run`",
            "c.toml:4: `log.level`: expected one of [\"error\", \"warn\", \"info\", \"debug\", \"trace\"]",
            "c.toml:6: `registry.connect_timeout`: `5 min` is not a duration: write \"500ms\", \"30s\", \"5m\"",
            "c.toml:7: `registry.parallel_layers`: `-1` is not a count: invalid digit found in string",
            "c.toml:9: `pods.default_runtime`: no runtime handler is called `buildin`; did you mean `builtin`?",
        ]
    );
}

#[test]
fn wrong_toml_is_one_problem_with_its_line() {
    let found = problems("root = \"/a\"\nroot = \"/b\"\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("c.toml:2: "), "{found:?}");
    assert_eq!(problems("log = 3"), ["c.toml:1: `log` is a table, not an integer"]);
}

#[test]
fn a_socket_path_must_fit_the_kernel() {
    let text = format!("listen = \"/{}\"", "x".repeat(107));
    assert_eq!(
        problems(&text),
        ["c.toml:1: `listen`: a socket path has at most 107 bytes, not 108"]
    );
}

#[test]
fn values_have_bounds() {
    assert_eq!(
        problems("[pods]\nlog_line_size = 1\ncgroup_parent = \"a/../b\"\n"),
        [
            "c.toml:2: `pods.log_line_size`: must be between 64 and 1048576 bytes",
            "c.toml:3: `pods.cgroup_parent`: `a/../b` is neither an absolute cgroup nor a slice",
        ]
    );
    assert_eq!(
        problems("[network]\nbridge = \"a-very-long-bridge\"\nparallel_plugins = 0\n"),
        [
            "c.toml:2: `network.bridge`: `a-very-long-bridge` cannot be the name of an interface",
            "c.toml:3: `network.parallel_plugins`: at least one plugin runs at a time",
        ]
    );
}

#[test]
fn a_runtime_handler_needs_an_executable() {
    assert_eq!(
        problems("[runtimes.crun]\nkind = \"oci\"\n"),
        ["c.toml:1: `runtimes.crun`: `path` must be given"]
    );
    assert_eq!(
        problems("[runtimes.builtin]\npath = \"/x\"\n"),
        ["c.toml:1: `runtimes.builtin`: the built-in runtime is not configured here"]
    );
}

#[test]
fn values_are_read() {
    let read = settings(
        "[metrics]\nlisten = \"127.0.0.1:1\"\n[runtimes.crun]\npath = \"/usr/bin/crun\"\n\
         [pods]\ndefault_runtime = \"crun\"\nlog_line_size = \"1MiB\"\n[images]\npinned = [\"a\"]\n",
    );
    assert_eq!(read.metrics.listen.written.map(|at| at.port()), Some(1));
    assert_eq!(read.runtimes["crun"].path.written.as_deref(), Some(Path::new("/usr/bin/crun")));
    assert_eq!(read.pods.log_line_size, ByteSize(1 << 20));
    assert_eq!(read.images.pinned, ["a"]);
}

#[test]
fn drop_ins_are_merged_in_lexical_order() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.toml");
    let drop_ins = directory.path().join("config.toml.d");
    std::fs::create_dir(&drop_ins)?;
    std::fs::write(&file, "root = \"/one\"\n[log]\nlevel = \"debug\"\n")?;
    std::fs::write(drop_ins.join("20.toml"), "root = \"/three\"\n")?;
    std::fs::write(drop_ins.join("10.toml"), "root = \"/two\"\n[log]\nformat = \"json\"\n")?;
    std::fs::write(drop_ins.join("30.txt"), "not read")?;
    let read = load(&file, Named::Explicitly, &Overrides::default())?;
    assert_eq!(read.root, Path::new("/three"));
    assert_eq!((read.log.level, read.log.format), (LogLevel::Debug, LogFormat::Json));
    Ok(())
}

#[test]
fn only_a_file_that_was_named_must_exist() {
    let absent = Path::new("/nonexistent/config.toml");
    let read = |named| load(absent, named, &Overrides::default());
    assert_eq!(read(Named::ByDefault).ok(), Some(Settings::default()));
    let refused = read(Named::Explicitly).map_err(|invalid| invalid.to_string());
    assert!(refused.is_err_and(|text| text.contains("/nonexistent/config.toml: cannot be read")));
}

#[test]
fn the_socket_follows_the_state_directory() {
    assert_eq!(Settings::default().socket(), Path::new("/run/orlop/orlop.sock"));
    let overrides = Overrides { state: Some("/x".into()), ..Overrides::default() };
    let read = load(Path::new("/nonexistent"), Named::ByDefault, &overrides).unwrap();
    assert_eq!(read.socket(), Path::new("/x/orlop.sock"));
    assert_eq!(read.daemon().network.netns_dir, Path::new("/x/netns"));
}

#[test]
fn a_certificate_comes_with_its_key() {
    assert_eq!(
        problems("[streaming]\ntls_certificate = \"/c.pem\"\n"),
        ["c.toml:2: `streaming.tls_certificate`: needs `tls_key`"]
    );
    assert_eq!(
        problems("[streaming]\ntls_key = \"/k.pem\"\n"),
        ["c.toml:2: `streaming.tls_key`: needs `tls_certificate`"]
    );
    let both = "[streaming]\ntls_certificate = \"/c.pem\"\ntls_key = \"/k.pem\"\n";
    assert!(settings(both).daemon().streaming.tls.is_some());
}
