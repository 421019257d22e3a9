//! Our `.proto` says the same as the official one: services, RPCs, messages, fields, enum
//! values; names, numbers, types, labels and streaming. Comments are ours.
//!
//! The official file comes from the Go module registry, at a pinned version and checksum,
//! so this needs Go and, the first time, the network; without them it fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// The module compared with, and the checksum Go gives it.
const MODULE: &str = "k8s.io/cri-api@v0.37.2";
const SUM: &str = "h1:UMvN3s6yoG3SVbxX9Mw6yVmVmaLwVAjy0hXUpJzXogo=";

const PROTO: &str = "runtime/v1/api.proto";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[test]
fn our_descriptors_are_the_official_ones() -> Outcome<()> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let theirs = download()?.join("pkg/apis");
    let ours = facts(&protox::compile([PROTO], [ours])?);
    let theirs = facts(&protox::compile([PROTO], [theirs])?);
    let missing: Vec<_> = theirs.difference(&ours).map(|fact| format!("- {fact}")).collect();
    let extra: Vec<_> = ours.difference(&theirs).map(|fact| format!("+ {fact}")).collect();
    assert!(theirs.len() > 800, "only {} facts: was the file understood?", theirs.len());
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!("\n{MODULE} (-) against ours (+):\n{}\n{}", missing.join("\n"), extra.join("\n"))
        .into())
}

/// The directory of the module, fetched if it is not there yet.
fn download() -> Outcome<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(std::env::temp_dir())
        .output()
        .map_err(|error| format!("go is needed to fetch {MODULE}: {error}"))?;
    let answer = String::from_utf8(output.stdout)?;
    let field = |name: &str| {
        let start = format!("\"{name}\": \"");
        let line = answer.lines().find_map(|line| line.trim().strip_prefix(&start))?;
        line.split('"').next().map(str::to_owned)
    };
    match (field("Dir"), field("Sum")) {
        (Some(directory), Some(sum)) if sum == SUM => Ok(directory.into()),
        (Some(_), Some(sum)) => Err(format!("{MODULE} has the checksum {sum}, not {SUM}").into()),
        (_, _) => {
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("cannot fetch {MODULE}: {answer}{complaint}").into())
        }
    }
}

/// One line for each thing the files say.
fn facts(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in &set.file {
        facts.insert(format!("package {} syntax {}", file.package(), file.syntax()));
        file.service.iter().for_each(|service| service_facts(service, &mut facts));
        file.message_type.iter().for_each(|message| message_facts("", message, &mut facts));
        file.enum_type.iter().for_each(|list| enum_facts("", list, &mut facts));
    }
    facts
}

fn service_facts(service: &ServiceDescriptorProto, facts: &mut BTreeSet<String>) {
    for rpc in &service.method {
        let stream = |is: bool| if is { "stream " } else { "" };
        facts.insert(format!(
            "rpc {}.{}({}{}) returns ({}{})",
            service.name(),
            rpc.name(),
            stream(rpc.client_streaming()),
            rpc.input_type(),
            stream(rpc.server_streaming()),
            rpc.output_type(),
        ));
    }
}

fn message_facts(outer: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{outer}.{}", message.name());
    let is_map = message.options.as_ref().is_some_and(|options| options.map_entry());
    facts.insert(format!("message {name} map {is_map}"));
    for field in &message.field {
        facts.insert(field_fact(&name, field));
    }
    for range in &message.reserved_range {
        facts.insert(format!("reserved {name} {}..{}", range.start(), range.end()));
    }
    message.nested_type.iter().for_each(|inner| message_facts(&name, inner, facts));
    message.enum_type.iter().for_each(|list| enum_facts(&name, list, facts));
}

fn field_fact(message: &str, field: &FieldDescriptorProto) -> String {
    let deprecated = field.options.as_ref().is_some_and(|options| options.deprecated());
    let one_of = field.oneof_index.map_or_else(String::new, |index| format!(" oneof {index}"));
    format!(
        "field {message}.{} = {} {:?} {:?} {}{one_of} json {} deprecated {deprecated}",
        field.name(),
        field.number(),
        field.label(),
        field.r#type(),
        field.type_name(),
        field.json_name(),
    )
}

fn enum_facts(outer: &str, list: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    for value in &list.value {
        facts.insert(format!("enum {outer}.{} {} = {}", list.name(), value.name(), value.number()));
    }
}
