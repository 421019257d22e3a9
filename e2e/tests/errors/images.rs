//! `ImageService`.

use std::fs;
use std::path::Path;

use anyhow::Result;
use cri_api::v1::*;
use e2e::fixtures::OWN_REGISTRY;

use super::{Scene, Table};

/// Sends pulls from our registry to a port where nobody listens.
pub(super) fn write_hosts(directory: &Path) -> Result<()> {
    let directory = directory.join(OWN_REGISTRY);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("hosts.toml"), "server = \"http://127.0.0.1:1\"\n")?;
    Ok(())
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..Default::default() })
}

pub(super) async fn mistakes(scene: &mut Scene, table: &mut Table) -> Result<()> {
    let images = &mut scene.cri.images;
    let unreachable = format!("{OWN_REGISTRY}/demo/other:1");
    for (cause, image) in [
        ("no image", None),
        ("empty image", spec("")),
        ("no reference", spec("Not A Reference")),
        ("NUL in the reference", spec("a\0b")),
        ("unknown image", spec("registry.invalid/no/such:1")),
        ("unknown id", spec("f00f00f00f00")),
    ] {
        let request = ImageStatusRequest { image: image.clone(), verbose: false };
        table.add("ImageStatus", cause, images.image_status(request).await);
        let request = RemoveImageRequest { image: image.clone() };
        table.add("RemoveImage", cause, images.remove_image(request).await);
        let request = ListImagesRequest { filter: Some(ImageFilter { image: image.clone() }) };
        table.add("ListImages", cause, images.list_images(request).await);
        if !cause.starts_with("unknown") {
            let request = PullImageRequest { image, ..Default::default() };
            table.add("PullImage", cause, images.pull_image(request).await);
        }
    }
    let request = PullImageRequest { image: spec(&unreachable), ..Default::default() };
    table.add("PullImage", "registry unreachable", images.pull_image(request).await);
    let image =
        spec(&unreachable).map(|image| ImageSpec { runtime_handler: "kata".into(), ..image });
    let request = PullImageRequest { image, ..Default::default() };
    table.add("PullImage", "unknown handler", images.pull_image(request).await);
    for (cause, auth) in [("auth not base64", "?"), ("auth without a colon", "bm9uZQ==")] {
        let auth = Some(AuthConfig { auth: auth.to_owned(), ..Default::default() });
        let request = PullImageRequest { image: spec(&unreachable), auth, ..Default::default() };
        table.add("PullImage", cause, images.pull_image(request).await);
    }
    Ok(())
}
