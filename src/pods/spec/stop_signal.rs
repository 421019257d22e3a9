//! Which signal stops a container.
//!
//! # References
//! - [signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html)
//! - [OCI image-spec, `StopSignal`](https://github.com/opencontainers/image-spec/blob/main/config.md#properties)

use cri_api::v1::{self, Signal};
use oci_spec::image::ImageConfiguration;

use super::ImageSettings;

/// The first real-time signal that programs may use, and the last, as every libc but the
/// oldest counts them.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// The ordinary signals by number on the architectures that Kubernetes runs on.
const NAMES: [(i32, &str, Signal); 36] = [
    (1, "HUP", Signal::Sighup),
    (2, "INT", Signal::Sigint),
    (3, "QUIT", Signal::Sigquit),
    (4, "ILL", Signal::Sigill),
    (5, "TRAP", Signal::Sigtrap),
    (6, "ABRT", Signal::Sigabrt),
    (6, "IOT", Signal::Sigiot),
    (7, "BUS", Signal::Sigbus),
    (8, "FPE", Signal::Sigfpe),
    (9, "KILL", Signal::Sigkill),
    (10, "USR1", Signal::Sigusr1),
    (11, "SEGV", Signal::Sigsegv),
    (12, "USR2", Signal::Sigusr2),
    (13, "PIPE", Signal::Sigpipe),
    (14, "ALRM", Signal::Sigalrm),
    (15, "TERM", Signal::Sigterm),
    (16, "STKFLT", Signal::Sigstkflt),
    (17, "CHLD", Signal::Sigchld),
    (17, "CLD", Signal::Sigcld),
    (18, "CONT", Signal::Sigcont),
    (19, "STOP", Signal::Sigstop),
    (20, "TSTP", Signal::Sigtstp),
    (21, "TTIN", Signal::Sigttin),
    (22, "TTOU", Signal::Sigttou),
    (23, "URG", Signal::Sigurg),
    (24, "XCPU", Signal::Sigxcpu),
    (25, "XFSZ", Signal::Sigxfsz),
    (26, "VTALRM", Signal::Sigvtalrm),
    (27, "PROF", Signal::Sigprof),
    (28, "WINCH", Signal::Sigwinch),
    (29, "IO", Signal::Sigio),
    (29, "POLL", Signal::Sigpoll),
    (30, "PWR", Signal::Sigpwr),
    (31, "SYS", Signal::Sigsys),
    (SIGRTMIN, "RTMIN", Signal::Sigrtmin),
    (SIGRTMAX, "RTMAX", Signal::Sigrtmax),
];

/// A signal by number, one that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(i32);

/// A signal that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StopSignalError {
    /// A number that CRI does not list.
    #[error("stop signal {0} is unknown")]
    Request(i32),
    /// A name or number that Linux does not have.
    #[error("the image's stop signal {0:?} is unknown")]
    Image(String),
}

/// The signal of the request, else the image's, else `SIGTERM`.
///
/// # Errors
/// [`StopSignalError`] if the one that counts does not exist.
pub fn stop_signal(
    config: &v1::ContainerConfig,
    image: &ImageConfiguration,
) -> Result<StopSignal, StopSignalError> {
    let unknown = || StopSignalError::Request(config.stop_signal);
    let requested = Signal::try_from(config.stop_signal).map_err(|_unknown| unknown())?;
    if requested != Signal::RuntimeDefault {
        return StopSignal::from_cri(requested).ok_or_else(unknown);
    }
    match ImageSettings::of(image).stop_signal {
        "" => Ok(StopSignal::TERM),
        name => StopSignal::parse(name).ok_or_else(|| StopSignalError::Image(name.to_owned())),
    }
}

impl StopSignal {
    /// `SIGTERM`.
    pub const TERM: Self = Self(15);

    /// The signal with this number, if there is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        let usable = (1..=31).contains(&number) || (SIGRTMIN..=SIGRTMAX).contains(&number);
        usable.then_some(Self(number))
    }

    /// The number for kill(2).
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// The signal in CRI's words, for `ContainerStatus.stop_signal`.
    #[must_use]
    pub fn to_cri(self) -> Signal {
        let named = NAMES.iter().find(|(number, ..)| *number == self.0);
        let real_time = || {
            let after = self.0 - SIGRTMIN;
            Signal::try_from(i32::from(Signal::Sigrtmin) + after).ok()
        };
        named.map(|(.., signal)| *signal).or_else(real_time).unwrap_or(Signal::RuntimeDefault)
    }

    fn from_cri(signal: Signal) -> Option<Self> {
        let named = NAMES.iter().find(|(.., named)| *named == signal);
        let real_time = || {
            // `SIGRTMIN`, `SIGRTMIN+1` to `SIGRTMIN+15`, `SIGRTMAX-14` to `SIGRTMAX-1` and
            // `SIGRTMAX` are 31 numbers in a row, in CRI as in Linux.
            let after = i32::from(signal).checked_sub(i32::from(Signal::Sigrtmin))?;
            (0..=SIGRTMAX - SIGRTMIN).contains(&after).then_some(Self(SIGRTMIN + after))
        };
        named.map(|(number, ..)| Self(*number)).or_else(real_time)
    }

    /// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`, in either case.
    fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().and_then(Self::from_number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |digits: &str| {
            let digits = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?;
            digits.parse::<i32>().ok().filter(|offset| (1..=30).contains(offset))
        };
        if let Some(digits) = name.strip_prefix("RTMIN+") {
            return Some(Self(SIGRTMIN + offset(digits)?));
        }
        if let Some(digits) = name.strip_prefix("RTMAX-") {
            return Some(Self(SIGRTMAX - offset(digits)?));
        }
        NAMES.iter().find(|(_, named, _)| *named == name).map(|(number, ..)| Self(*number))
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

    use super::*;

    fn resolve(request: i32, image: &str) -> Result<i32, StopSignalError> {
        let config = ConfigBuilder::default().stop_signal(image).build().unwrap();
        let image = ImageConfigurationBuilder::default().config(config);
        let image = image
            .architecture("amd64")
            .os("linux")
            .rootfs(oci_spec::image::RootFs::default())
            .build()
            .unwrap();
        let config = v1::ContainerConfig { stop_signal: request, ..Default::default() };
        stop_signal(&config, &image).map(StopSignal::number)
    }

    #[test]
    fn request_image_default() {
        for (request, image, expected) in [
            (Signal::RuntimeDefault, "", 15),
            (Signal::RuntimeDefault, "SIGQUIT", 3),
            (Signal::RuntimeDefault, "quit", 3),
            (Signal::RuntimeDefault, "9", 9),
            (Signal::RuntimeDefault, "SIGRTMIN+3", 37),
            (Signal::RuntimeDefault, "RTMAX-1", 63),
            (Signal::RuntimeDefault, "SIGRTMAX", 64),
            (Signal::Sigusr1, "SIGQUIT", 10),
            (Signal::Sigcld, "nonsense", 17),
            (Signal::Sigrtmin, "", 34),
            (Signal::Sigrtminplus15, "", 49),
            (Signal::Sigrtmaxminus14, "", 50),
            (Signal::Sigrtmaxminus1, "", 63),
            (Signal::Sigrtmax, "", 64),
        ] {
            assert_eq!(resolve(request.into(), image), Ok(expected), "{request:?} {image:?}");
        }
    }

    #[test]
    fn refused() {
        assert_eq!(resolve(66, ""), Err(StopSignalError::Request(66)));
        assert_eq!(resolve(-1, "TERM"), Err(StopSignalError::Request(-1)));
        for image in [
            "SIGFOO",
            "0",
            "32",
            "65",
            "-9",
            "RTMIN+31",
            "RTMIN+-1",
            "RTMIN+",
            "99999999999",
            " TERM",
        ] {
            assert_eq!(resolve(0, image), Err(StopSignalError::Image(image.to_owned())));
        }
    }

    #[test]
    fn every_signal_of_cri_exists_and_comes_back() {
        for number in 1..=65 {
            let signal = Signal::try_from(number).unwrap();
            let resolved = StopSignal::from_cri(signal).unwrap();
            assert_eq!(StopSignal::from_cri(resolved.to_cri()), Some(resolved), "{signal:?}");
        }
        for number in (1..32).chain(34..=64) {
            assert_ne!(StopSignal(number).to_cri(), Signal::RuntimeDefault, "{number}");
        }
    }
}
