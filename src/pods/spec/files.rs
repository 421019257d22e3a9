//! The content of the files that a pod gives its containers: `/etc/resolv.conf`,
//! `/etc/hosts`, `/etc/hostname`.
//!
//! Each value is checked to be one word, so that none can add a line.
//!
//! # References
//! - [resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html), [hosts(5)](https://man7.org/linux/man-pages/man5/hosts.5.html), [hostname(5)](https://man7.org/linux/man-pages/man5/hostname.5.html)

use std::net::IpAddr;

use cri_api::v1;

/// `__NEW_UTS_LEN`: the kernel takes no longer name, in bytes.
const MAX_HOSTNAME: usize = 64;

/// A value that does not belong into the file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// A name server is given by its address.
    #[error("name server {server:?} is not an IP address")]
    Server {
        /// As given.
        server: String,
    },
    /// A search domain or an option is one word.
    #[error("DNS {field} {value:?} is not one word of plain characters")]
    Word {
        /// `search` or `option`.
        field: &'static str,
        /// As given.
        value: String,
    },
    /// A host name is at most 64 bytes of letters, digits, dots and hyphens.
    #[error("host name {hostname:?} is not 1 to 64 letters, digits, dots and hyphens")]
    Hostname {
        /// As given.
        hostname: String,
    },
}

/// The content of `/etc/resolv.conf`; none when the configuration says nothing, which
/// means the node's own file.
///
/// # Errors
/// [`FileError::Server`] and [`FileError::Word`] name the value that is not acceptable.
pub fn resolv_conf(dns: Option<&v1::DnsConfig>) -> Result<Option<String>, FileError> {
    let Some(v1::DnsConfig { servers, searches, options }) = dns else { return Ok(None) };
    let mut content = String::new();
    if !searches.is_empty() {
        let words = words("search", searches)?;
        content.push_str(&format!("search {words}\n"));
    }
    for server in servers {
        // An IPv6 address may carry the name of an interface.
        let address = server.split_once('%').map_or(server.as_str(), |(address, _)| address);
        if address.parse::<IpAddr>().is_err() || !is_word(server) {
            return Err(FileError::Server { server: server.clone() });
        }
        content.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        let words = words("option", options)?;
        content.push_str(&format!("options {words}\n"));
    }
    Ok(Some(content).filter(|content| !content.is_empty()))
}

/// The content of `/etc/hosts` for a pod with these addresses.
///
/// # Errors
/// [`FileError::Hostname`] if the host name is not one.
pub fn hosts_file(hostname: &str, addresses: &[IpAddr]) -> Result<String, FileError> {
    check_hostname(hostname)?;
    let mut content = "127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::\tip6-localnet\n\
        ff02::1\tip6-allnodes\n\
        ff02::2\tip6-allrouters\n"
        .to_owned();
    for address in addresses {
        content.push_str(&format!("{address}\t{hostname}\n"));
    }
    Ok(content)
}

/// The content of `/etc/hostname`.
///
/// # Errors
/// [`FileError::Hostname`] if the host name is not one.
pub fn hostname_file(hostname: &str) -> Result<String, FileError> {
    check_hostname(hostname)?;
    Ok(format!("{hostname}\n"))
}

fn check_hostname(hostname: &str) -> Result<(), FileError> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if (1..=MAX_HOSTNAME).contains(&hostname.len()) && hostname.bytes().all(letter) {
        Ok(())
    } else {
        Err(FileError::Hostname { hostname: hostname.to_owned() })
    }
}

fn words(field: &'static str, values: &[String]) -> Result<String, FileError> {
    match values.iter().find(|value| !is_word(value)) {
        Some(value) => Err(FileError::Word { field, value: value.clone() }),
        None => Ok(values.join(" ")),
    }
}

fn is_word(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> v1::DnsConfig {
        let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        v1::DnsConfig { servers: list(servers), searches: list(searches), options: list(options) }
    }

    #[test]
    fn resolver() {
        let full = dns(&["10.0.0.10", "fe80::1%eth0"], &["a.svc", "b"], &["ndots:5", "edns0"]);
        assert_eq!(
            resolv_conf(Some(&full)).unwrap().unwrap(),
            "search a.svc b\nnameserver 10.0.0.10\nnameserver fe80::1%eth0\noptions ndots:5 edns0\n"
        );
        assert_eq!(resolv_conf(None), Ok(None));
        assert_eq!(resolv_conf(Some(&dns(&[], &[], &[]))), Ok(None));
        for bad in [
            dns(&["dns.example"], &[], &[]),
            dns(&["1.1.1.1\nnameserver 2.2.2.2"], &[], &[]),
            dns(&["fe80::1%a b"], &[], &[]),
            dns(&[], &["a b"], &[]),
            dns(&[], &[""], &[]),
            dns(&[], &[], &["ndots:5\nnameserver 6.6.6.6"]),
        ] {
            assert!(resolv_conf(Some(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts() {
        let addresses = ["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let content = hosts_file("web-0.example", &addresses).unwrap();
        assert!(content.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(content.ends_with("10.88.0.2\tweb-0.example\nfd00::2\tweb-0.example\n"));
        assert_eq!(hostname_file("web-0").unwrap(), "web-0\n");
        for hostname in ["", "a b", "a\nb", "ü", &"x".repeat(65)] {
            assert!(hosts_file(hostname, &[]).is_err(), "{hostname:?}");
            assert!(hostname_file(hostname).is_err(), "{hostname:?}");
        }
    }
}
