//! The images that tests pull, and the names under which critest asks for them.
//!
//! This is the one place where names of public registries appear: critest has them
//! in its source. They are only names here; `hosts.toml` files send every request
//! for them to the registry on loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::debian;
use crate::image::Image;
use crate::layer::{Layer, Packing, Tree};
use crate::programs::{Busybox, commands_of, compile};
use crate::registry::Registry;

/// The registries whose names critest uses.
pub const REGISTRIES: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

/// The registry whose name our own tests use; it belongs to nobody.
pub const OWN_REGISTRY: &str = "registry.invalid";

/// The demo image's name.
pub const DEMO: &str = "registry.invalid/demo/busybox:latest";

/// The digest that the image `test-image-digest` has; critest is built with it.
pub const PINNED_DIGEST: &str = include_str!("../critest/digest");

const E2E: &str = "e2e-test-images";
const CRI_TOOLS: &str = "k8s-staging-cri-tools";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const USERS: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";
const GROUPS: &str = "root:x:0:
daemon:x:1:
tty:x:5:
www-data:x:33:
users:x:100:
nogroup:x:65534:
";
const NGINX_CONF: &str = "user nobody nogroup;
worker_processes 1;
pid /var/run/nginx.pid;
error_log stderr notice;
events { worker_connections 64; }
http { access_log /dev/stdout; include /etc/nginx/conf.d/*.conf; }
";
/// Logs the word `httpd`, which critest looks for in the container's log.
const HTTPD_START: &str = "#!/bin/sh
echo 'httpd: starting'
exec httpd -f -p 80 -h /www
";

/// What every root file system here has, whatever its programs are.
fn skeleton(mut tree: Tree) -> Tree {
    let folders = [
        "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/run",
        "var/www",
    ];
    for folder in folders {
        tree = tree.dir(folder, 0o755);
    }
    tree = tree.dir("root", 0o700).dir("tmp", 0o1777);
    tree.file("etc/passwd", 0o644, USERS).file("etc/group", 0o644, GROUPS)
}

/// An image of the machine's static busybox alone, which runs a shell.
///
/// # Errors
/// If there is no static busybox.
pub fn busybox() -> Result<Image> {
    let busybox = Busybox::find()?;
    let mut tree =
        skeleton(Tree::new()).dir("bin", 0o755).file("bin/busybox", 0o755, busybox.binary);
    for command in busybox.commands {
        tree = tree.hardlink(&format!("bin/{command}"), "bin/busybox");
    }
    Image::new(vec![tree.pack(Packing::Gzip)?], &json!({ "Env": [PATH], "Cmd": ["sh"] }))
}

/// The content of the image `cluster/spare`, in bytes.
pub const SPARE_BYTES: u64 = 200 << 20;

/// Fills a registry with the images of the cluster's checks: `cluster/busybox`;
/// `cluster/agnhost` in two versions and `cluster/sample-device-plugin`, from the programs of
/// these names in `programs`; and `cluster/spare`, which is large.
///
/// # Errors
/// If an image cannot be made or pushed.
pub fn push_cluster_images(registry: &mut Registry, programs: &Path) -> Result<()> {
    let shell = busybox()?;
    registry.push("cluster/busybox", &["1"], &shell)?;
    let agnhost = program_layer(programs, "agnhost")?;
    for version in ["1", "2"] {
        let layers =
            [shell.layers.clone(), vec![agnhost.clone(), mark(&format!("version-{version}"))?]];
        let settings = json!({ "Env": [PATH], "Entrypoint": ["/agnhost"], "Cmd": ["pause"] });
        registry.push("cluster/agnhost", &[version], &Image::new(layers.concat(), &settings)?)?;
    }
    let plugin = vec![program_layer(programs, "sample-device-plugin")?];
    let settings = json!({ "Entrypoint": ["/sample-device-plugin"] });
    registry.push("cluster/sample-device-plugin", &["1"], &Image::new(plugin, &settings)?)?;
    let content = vec![b'o'; usize::try_from(SPARE_BYTES)?];
    let large = Tree::new().file("large", 0o644, content).pack(Packing::Tar)?;
    let spare =
        Image::new([shell.layers.clone(), vec![large]].concat(), &json!({ "Env": [PATH] }))?;
    registry.push("cluster/spare", &["1"], &spare)
}

/// A layer with one program, at the top of the tree.
fn program_layer(programs: &Path, name: &str) -> Result<Layer> {
    let path = programs.join(name);
    let program = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Tree::new().file(name, 0o755, program).pack(Packing::Gzip)
}

/// The root file system that critest's images stand on.
///
/// It has the distribution's dynamic busybox: the shell of the static one runs `ls`
/// by itself, even where the file `/bin/ls` is masked, which a spec looks for. And it
/// has our `pgrep` and `ipcs`, which neither has.
fn shell_tree(cache: &Path) -> Result<Tree> {
    let packaged = debian::tree_of("busybox", cache)?;
    let path = ["bin/busybox", "usr/bin/busybox"].into_iter().find(|path| packaged.contains(path));
    let path = path.context("the package busybox has no busybox")?;
    let runnable = cache.join("programs/busybox");
    fs::create_dir_all(cache.join("programs"))?;
    fs::write(&runnable, packaged.content(path).context("busybox is not a file")?)?;
    fs::set_permissions(&runnable, fs::Permissions::from_mode(0o755))?;
    let folder = path.trim_end_matches("/busybox");
    let mut tree = skeleton(packaged);
    for command in commands_of(&runnable)? {
        tree = tree.hardlink(&format!("{folder}/{command}"), path);
    }
    for own in ["pgrep", "ipcs"] {
        tree = tree.file(&format!("{folder}/{own}"), 0o755, compile(own, &cache.join("programs"))?);
    }
    Ok(tree)
}

/// A web server from the distribution.
fn nginx(cache: &Path) -> Result<Tree> {
    let mut tree = debian::tree_of("nginx", cache)?;
    for folder in
        ["var/log/nginx", "var/lib/nginx", "run", "etc/nginx/conf.d", "usr/share/nginx/html"]
    {
        tree = tree.dir(folder, 0o755);
    }
    Ok(tree.file("etc/nginx/nginx.conf", 0o644, NGINX_CONF).file(
        "usr/share/nginx/html/index.html",
        0o644,
        "<h1>Welcome to nginx!</h1>\n",
    ))
}

fn nginx_site(port: u16) -> Result<Layer> {
    let site = format!(
        "server {{ listen {port}; location / {{ root /usr/share/nginx/html; index index.html; }} }}\n"
    );
    Tree::new().file("etc/nginx/conf.d/default.conf", 0o644, site).pack(Packing::Gzip)
}

/// Fills a registry with every image that critest pulls.
///
/// # Errors
/// If an image cannot be made or pushed, or if the image pulled by digest no longer
/// has the digest that critest is built with.
pub fn push_critest_images(registry: &mut Registry, cache: &Path) -> Result<()> {
    let shell_layer = shell_tree(cache)?.pack(Packing::Gzip)?;
    let shell = json!({ "Env": [PATH], "Cmd": ["sh"] });
    push_general(registry, cache, &shell_layer, &shell)?;
    push_web_servers(registry, cache, &shell_layer)?;
    push_users(registry, &shell_layer)?;
    push_image_manager(registry, &shell_layer, &shell)
}

fn push_general(
    registry: &mut Registry,
    cache: &Path,
    lowest: &Layer,
    shell: &Value,
) -> Result<()> {
    let programs = cache.join("programs");
    let busybox = Image::new(vec![lowest.clone()], shell)?;
    registry.push(&format!("{E2E}/busybox"), &["1.29-2", "1.29-4", "1.36.1-1"], &busybox)?;
    for tag in ["1", "latest", "1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"] {
        let image = Image::new(vec![lowest.clone(), mark(&format!("tag-{tag}"))?], shell)?;
        registry.push("docker/library/busybox", &[tag], &image)?;
    }
    let pause =
        Tree::new().file("pause", 0o755, compile("pause", &programs)?).pack(Packing::Gzip)?;
    for version in ["3.9", "3.10", "3.10.1", "3.10.2"] {
        let settings = json!({ "Env": [PATH], "Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/",
            "Labels": { "version": version } });
        registry.push("pause", &[version], &Image::new(vec![pause.clone()], &settings)?)?;
    }
    let setuid = Tree::new()
        .file("nonewprivs", 0o4755, compile("nonewprivs", &programs)?)
        .pack(Packing::Gzip)?;
    let nonewprivs = Image::new(
        vec![lowest.clone(), setuid],
        &json!({ "Env": [PATH], "Cmd": ["/nonewprivs"] }),
    )?;
    registry.push(&format!("{E2E}/nonewprivs"), &["1.3"], &nonewprivs)
}

fn push_web_servers(registry: &mut Registry, cache: &Path, lowest: &Layer) -> Result<()> {
    let server = nginx(cache)?.pack(Packing::Gzip)?;
    let settings =
        json!({ "Env": [PATH], "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGTERM" });
    let on_port =
        |port| Image::new(vec![lowest.clone(), server.clone(), nginx_site(port)?], &settings);
    registry.push(&format!("{E2E}/nginx"), &["1.14-2", "1.14-4"], &on_port(80)?)?;
    let host_network = on_port(12003)?;
    registry.push(&format!("{CRI_TOOLS}/hostnet-nginx"), &["latest"], &host_network)?;
    let architecture = crate::image::architecture();
    registry.push(
        &format!("{CRI_TOOLS}/hostnet-nginx-{architecture}"),
        &["latest"],
        &host_network,
    )?;
    let files = Tree::new()
        .dir("www", 0o755)
        .file("www/index.html", 0o644, "<h1>It works!</h1>\n")
        .file("start", 0o755, HTTPD_START)
        .pack(Packing::Gzip)?;
    let httpd =
        Image::new(vec![lowest.clone(), files], &json!({ "Env": [PATH], "Cmd": ["/start"] }))?;
    registry.push(&format!("{E2E}/httpd"), &["2.4.38-4", "2.4.39-4"], &httpd)
}

fn push_users(registry: &mut Registry, lowest: &Layer) -> Result<()> {
    let users = [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ];
    for (name, user) in users {
        let image = Image::new(
            vec![lowest.clone()],
            &json!({ "Env": [PATH], "Cmd": ["sh"], "User": user }),
        )?;
        registry.push(&format!("{CRI_TOOLS}/test-image-user-{name}"), &["latest"], &image)?;
    }
    let member = Tree::new()
        .file(
            "etc/passwd",
            0o644,
            format!("{USERS}default-user:x:1000:1000::/home/default-user:/bin/sh\n"),
        )
        .file(
            "etc/group",
            0o644,
            format!("{GROUPS}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"),
        )
        .pack(Packing::Gzip)?;
    let image = Image::new(
        vec![lowest.clone(), member],
        &json!({ "Env": [PATH], "Cmd": ["sh"], "User": "1000" }),
    )?;
    registry.push(&format!("{CRI_TOOLS}/test-image-predefined-group"), &["latest"], &image)
}

fn push_image_manager(registry: &mut Registry, lowest: &Layer, shell: &Value) -> Result<()> {
    for name in ["1", "2", "3", "latest"] {
        let image = Image::new(vec![lowest.clone(), mark(&format!("test-image-{name}"))?], shell)?;
        registry.push(&format!("{CRI_TOOLS}/test-image-{name}"), &["latest"], &image)?;
    }
    let same = Image::new(vec![lowest.clone(), mark("test-image-tags")?], shell)?;
    registry.push(&format!("{CRI_TOOLS}/test-image-tags"), &["1", "2", "3"], &same)?;
    for tag in ["test", "all"] {
        let image =
            Image::new(vec![lowest.clone(), mark(&format!("test-image-tag-{tag}"))?], shell)?;
        registry.push(&format!("{CRI_TOOLS}/test-image-tag"), &[tag], &image)?;
    }
    let pinned = pinned_image()?;
    if pinned.digest() != PINNED_DIGEST.trim() {
        bail!(
            "the image pulled by digest is now {}: put this into e2e/critest/digest",
            pinned.digest()
        );
    }
    registry
        .push(&format!("{CRI_TOOLS}/test-image-digest"), &["latest"], &pinned)
        .context("push the pinned image")
}

/// One uncompressed layer with one file: its digest depends on no compressor and no
/// program of this machine, only on its architecture.
fn pinned_image() -> Result<Image> {
    let layer = Tree::new().file("test-image-digest", 0o644, "").pack(Packing::Tar)?;
    Image::new(vec![layer], &json!({ "Cmd": ["/test-image-digest"] }))
}

/// A layer with one empty file, to make images differ.
fn mark(name: &str) -> Result<Layer> {
    Tree::new().file(name, 0o644, "").pack(Packing::Gzip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_image_has_the_digest_that_critest_is_built_with() {
        assert_eq!(pinned_image().unwrap().digest(), PINNED_DIGEST.trim());
    }
}
