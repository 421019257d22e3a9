//! Why a mount is refused.

/// A mount that cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MountError {
    /// The destination is no place in the container.
    #[error("mount destination {destination:?} is not an absolute path below the root")]
    Destination {
        /// As given.
        destination: String,
    },
    /// The source is no place on the node.
    #[error("mount source {source_path:?} of {destination:?} is not an absolute path without '..'")]
    Source {
        /// Where it was to go.
        destination: String,
        /// As given.
        source_path: String,
    },
    /// See the module's documentation.
    #[error("{destination:?} cannot be mounted over in a container")]
    OverProc {
        /// The destination.
        destination: String,
    },
    /// A propagation that this version does not know.
    #[error("mount propagation {propagation} of {destination:?} is unknown")]
    UnknownPropagation {
        /// The mount's destination.
        destination: String,
        /// The number.
        propagation: i32,
    },
    /// A mount option that is none of a bind mount's own, or one with a field of its own.
    #[error(
        "mount option {option:?} of {destination:?} is not one of exec, noexec, suid, nosuid, dev, nodev"
    )]
    Option {
        /// The mount's destination.
        destination: String,
        /// As given.
        option: String,
    },
    /// Id mappings that are not those of the pod's user namespace.
    #[error("the id mappings of the mount on {destination:?} are not those of the pod")]
    IdMappings {
        /// The mount's destination.
        destination: String,
    },
    /// What a user namespace mounts never reaches the node.
    #[error("the mount on {destination:?} cannot be bidirectional in a pod with a user namespace")]
    BidirectionalWithUser {
        /// The mount's destination.
        destination: String,
    },
    /// A recursive read-only mount that cannot be one.
    #[error(transparent)]
    RecursiveReadOnly(#[from] RecursiveReadOnlyError),
    /// A mount of an image that cannot be one.
    #[error(transparent)]
    Image(#[from] ImageMountError),
}

/// Why a mount cannot be read-only with everything below it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecursiveReadOnlyError {
    /// Read-only recursively but not at all.
    #[error("recursive_read_only of {destination:?} needs readonly")]
    NotReadOnly {
        /// The mount's destination.
        destination: String,
    },
    /// A mount that appears later would be writable.
    #[error("recursive_read_only of {destination:?} needs private propagation")]
    NotPrivate {
        /// The mount's destination.
        destination: String,
    },
    /// The kernel cannot do it.
    #[error("recursive_read_only of {destination:?} needs Linux 5.12")]
    Unsupported {
        /// The mount's destination.
        destination: String,
    },
}

/// Why an image cannot be mounted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageMountError {
    /// Two sources.
    #[error("the mount on {destination:?} has both an image and a host path")]
    HostPath {
        /// The mount's destination.
        destination: String,
    },
    /// Images are shared by all who mount them.
    #[error("the image mount on {destination:?} must be read-only")]
    Writable {
        /// The mount's destination.
        destination: String,
    },
    /// A sub-path without an image, or one that leaves it.
    #[error(
        "image_sub_path {sub_path:?} of {destination:?} is not a relative path inside of an image"
    )]
    SubPath {
        /// The mount's destination.
        destination: String,
        /// As given.
        sub_path: String,
    },
    /// The image has nothing there.
    #[error("image {image:?} for the mount on {destination:?} has no {sub_path:?}")]
    NoSubPath {
        /// The mount's destination.
        destination: String,
        /// The image's reference.
        image: String,
        /// As given.
        sub_path: String,
    },
    /// The image is not on this node.
    #[error("image {image:?} for the mount on {destination:?} is not available")]
    NotAvailable {
        /// The mount's destination.
        destination: String,
        /// The image's reference.
        image: String,
    },
}
