//! An image in CRI's words, and which images a name means.
//!
//! However an image is asked for, the answer is the same message.

use std::sync::Arc;

use cri_api::v1;

use crate::images::{FindError, Image, ImageUser, Images, Pinning, Reference};

/// The image as lists and `ImageStatus` answer.
#[must_use]
pub fn image(image: &Image) -> v1::Image {
    let id = image.id.to_string();
    let (uid, username) = match image.user() {
        ImageUser::Unset => (None, String::new()),
        ImageUser::Uid(uid) => (Some(v1::Int64Value { value: uid.into() }), String::new()),
        ImageUser::Name(name) => (None, name),
    };
    v1::Image {
        spec: Some(v1::ImageSpec { image: id.clone(), ..Default::default() }),
        id,
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        uid,
        username,
        pinned: image.pinned == Pinning::Pinned,
    }
}

/// The images that a filter means: all of a repository when it names one without a tag,
/// else those with the id, the beginning of an id, the tag or the digest. Nothing is an
/// error; an empty filter means all.
#[must_use]
pub fn filtered(images: &Images, filter: Option<&v1::ImageFilter>) -> Vec<Arc<Image>> {
    let name = filter.and_then(|filter| filter.image.as_ref()).map_or("", |spec| &spec.image);
    if name.is_empty() {
        return images.list();
    }
    if let Some(repository) = repository(name) {
        let mut found = images.list();
        found.retain(|image| image.references().any(|one| is_of(one, &repository)));
        if !found.is_empty() {
            return found;
        }
    }
    match images.find(name) {
        Ok(found) => found.into_iter().collect(),
        Err(FindError { candidates, .. }) => {
            let mut found = images.list();
            found.retain(|image| candidates.contains(&image.id));
            found
        }
    }
}

/// The full name of the repository, if that is all that is named.
fn repository(name: &str) -> Option<String> {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        return None;
    }
    Reference::parse(name).ok().map(|reference| reference.name())
}

/// Whether a full reference is one of this repository.
fn is_of(reference: &str, repository: &str) -> bool {
    reference.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@']))
}

#[cfg(test)]
mod tests;
