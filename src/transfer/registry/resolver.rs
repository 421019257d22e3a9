//! Names of hosts: `/etc/hosts`, then the name servers of `/etc/resolv.conf`.
//!
//! The C library would ask modules that `/etc/nsswitch.conf` names, and load them as shared
//! libraries; a static binary can do so only where they were built with its own C library.
//!
//! Invariants: a name in `/etc/hosts` is never asked of a name server, for no kind of address;
//! name servers are asked in the order of the file, and nobody else is; the files are read again
//! for each pull.
//!
//! # References
//! - [hosts(5)](https://man7.org/linux/man-pages/man5/hosts.5.html)
//! - [resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html)
//! - [RFC 6724](https://www.rfc-editor.org/rfc/rfc6724#section-6), rule 1

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use hickory_resolver::config::{
    LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use reqwest::dns::{Addrs, Resolve, Resolving};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Who is asked when the file names nobody.
const LOCAL: &str = "\nnameserver 127.0.0.1\n";

/// The address of a host cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name servers cannot be asked.
    #[error("cannot use {RESOLV_CONF}")]
    Configuration(#[source] NetError),
    /// It is no name.
    #[error("{name} cannot be the name of a host")]
    NotAName {
        /// The word.
        name: String,
        /// What is wrong with it.
        #[source]
        source: hickory_resolver::proto::ProtoError,
    },
    /// Nobody knows it, or nobody answered.
    #[error("cannot find the address of {name}")]
    Lookup {
        /// The name.
        name: String,
        /// What the name servers said.
        #[source]
        source: NetError,
    },
}

/// What the files said when they were read.
#[derive(Clone)]
pub(super) struct Resolver {
    hosts: Arc<Hosts>,
    servers: TokioResolver,
}

impl Resolver {
    /// Reads the system's files, so it blocks.
    ///
    /// # Errors
    /// [`ResolveError::Configuration`].
    pub(super) fn of_the_system() -> Result<Self, ResolveError> {
        // A file that is missing or cannot be read is an empty one, as with the C library.
        let read = |path| std::fs::read(Path::new(path)).unwrap_or_default();
        let (config, options) = servers(&read(RESOLV_CONF))?;
        Self::new(&read(HOSTS), config, options)
    }

    fn new(
        hosts: &[u8],
        config: ResolverConfig,
        mut options: ResolverOpts,
    ) -> Result<Self, ResolveError> {
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        options.use_hosts_file = ResolveHosts::Never;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.num_concurrent_reqs = 1;
        let mut known = Hosts::default();
        known
            .read_hosts_conf(hosts)
            .map_err(NetError::from)
            .map_err(ResolveError::Configuration)?;
        let servers = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(ResolveError::Configuration)?;
        Ok(Self { hosts: Arc::new(known), servers })
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let host = Name::from_ascii(name)
            .map_err(|source| ResolveError::NotAName { name: name.to_owned(), source })?;
        let known = self.known(&host);
        if !known.is_empty() {
            return Ok(known);
        }
        let answer = self.servers.lookup_ip(host).await;
        let found = answer.map_err(|source| ResolveError::Lookup { name: name.to_owned(), source });
        Ok(found?.iter().collect())
    }

    /// The addresses in `/etc/hosts`.
    fn known(&self, host: &Name) -> Vec<IpAddr> {
        let of_kind =
            |kind| self.hosts.lookup_static_host(&Query::query(host.to_lowercase(), kind));
        let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(of_kind);
        found
            .flat_map(|found| {
                found
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let mut addresses = resolver
                .addresses(name.as_str())
                .await
                .map_err(|failure| -> Box<dyn Error + Send + Sync> { Box::new(failure) })?;
            // What cannot be reached comes last; else each connection would wait for it.
            addresses.sort_by_key(|address| !has_route(*address));
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// What `resolv.conf` says.
fn servers(text: &[u8]) -> Result<(ResolverConfig, ResolverOpts), ResolveError> {
    match parse_resolv_conf(text) {
        Ok(parsed) => Ok(parsed),
        Err(_names_nobody) => parse_resolv_conf([text, LOCAL.as_bytes()].concat())
            .map_err(ResolveError::Configuration),
    }
}

/// Whether the kernel has a route; nothing is sent.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9))).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::A;
    use hickory_resolver::proto::rr::{RData, Record};
    use tokio::net::UdpSocket;

    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    /// A name server on loopback that knows the names given, and the names it was asked for.
    async fn name_server(
        known: &'static [(&'static str, [u8; 4])],
    ) -> std::io::Result<(u16, Arc<Mutex<Vec<String>>>)> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let port = socket.local_addr()?.port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                let query = question.queries[0].clone();
                let name = query.name().to_ascii().to_lowercase();
                let address = known.iter().find(|(known, _)| *known == name);
                let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
                answer.add_query(query.clone());
                match address {
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                    Some((_, octets)) if query.query_type() == RecordType::A => {
                        let data = RData::A(A::from(Ipv4Addr::from(*octets)));
                        answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                    }
                    Some(_) => {}
                }
                log.lock().unwrap().push(name);
                let bytes = answer.to_vec().unwrap();
                let _sent = socket.send_to(&bytes, from).await;
            }
        });
        Ok((port, asked))
    }

    /// A resolver whose name servers are at `port`.
    fn resolver(hosts: &str, conf: &str, port: u16) -> Result<Resolver, ResolveError> {
        let (config, options) = servers(conf.as_bytes())?;
        let mut list = config.name_servers().to_vec();
        for connection in list.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = port;
        }
        let (domain, search) = (config.domain().cloned(), config.search().to_vec());
        let config = ResolverConfig::from_parts(domain, search, list);
        Resolver::new(hosts.as_bytes(), config, options)
    }

    #[tokio::test]
    async fn name_servers_are_asked() -> Outcome {
        let (port, _) = name_server(&[("registry.test.", [192, 0, 2, 1])]).await?;
        let resolver = resolver("", "nameserver 127.0.0.1", port)?;
        let found = resolver.addresses("registry.test").await?;
        assert_eq!(found, [IpAddr::from([192, 0, 2, 1])]);
        let failure = resolver.addresses("nobody.test").await.unwrap_err();
        assert_eq!(failure.to_string(), "cannot find the address of nobody.test");
        Ok(())
    }

    #[tokio::test]
    async fn a_name_in_hosts_is_asked_of_nobody() -> Outcome {
        let (port, asked) = name_server(&[("registry.test.", [192, 0, 2, 1])]).await?;
        let hosts = "# ours\n192.0.2.7 other.test Registry.Test\n";
        let resolver = resolver(hosts, "nameserver 127.0.0.1", port)?;
        assert_eq!(resolver.addresses("registry.test").await?, [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(resolver.addresses("OTHER.test").await?, [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
        Ok(())
    }

    #[tokio::test]
    async fn short_names_are_looked_for_in_the_search_list() -> Outcome {
        let (port, asked) = name_server(&[("mirror.b.test.", [192, 0, 2, 2])]).await?;
        let conf = "search a.test b.test\nnameserver 127.0.0.1\noptions ndots:2\n";
        let resolver = resolver("", conf, port)?;
        assert_eq!(resolver.addresses("mirror").await?, [IpAddr::from([192, 0, 2, 2])]);
        let asked = asked.lock().unwrap();
        assert!(asked.contains(&"mirror.a.test.".to_owned()), "{asked:?}");
        Ok(())
    }

    #[test]
    fn without_a_name_server_this_machine_is_asked() -> Outcome {
        for text in ["", "search a.test\n", "# nothing"] {
            let (config, _) = servers(text.as_bytes())?;
            let list: Vec<_> = config.name_servers().iter().map(|server| server.ip).collect();
            assert_eq!(list, [IpAddr::from([127, 0, 0, 1])], "{text:?}");
        }
        let (config, _) = servers(b"nameserver 192.0.2.1\nnameserver 192.0.2.2\n")?;
        assert_eq!(config.name_servers().len(), 2);
        Ok(())
    }

    #[test]
    fn loopback_has_a_route() {
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
    }
}
