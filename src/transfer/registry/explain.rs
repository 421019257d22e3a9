//! Why a registry is asked as it is: each host with its settings, and what it says.
//!
//! Invariant: all hosts are asked, also behind one that answers, each once by the rules of a
//! pull; nothing of an image is fetched but its manifest's digest.

use std::sync::Arc;

use super::error::Chain;
use super::hosts::{Host, Scheme};
use super::trace::Trace;
use super::{Resolved, Session};
use crate::content::Digest;
use crate::transfer::credentials::HostRole;

/// One host that is asked for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The address of its API.
    pub address: String,
    /// What is set for it: a word, and what it is set to.
    pub settings: Vec<(&'static str, String)>,
    /// The requests, with their answers.
    pub exchanges: Vec<String>,
    /// The digest that it gives, or why it gives none.
    pub outcome: Result<Digest, String>,
}

impl Session {
    /// Asks every host for the manifest of `wanted`, a tag or a digest, and tells how that went.
    pub(in crate::transfer) async fn explain(mut self, wanted: &str) -> Vec<Hop> {
        let trace = Arc::new(Trace::default());
        for endpoint in &mut self.endpoints {
            endpoint.trace(Arc::clone(&trace));
        }
        let mut hops = Vec::new();
        for endpoint in &self.endpoints {
            let mut settings = settings_of(endpoint.host());
            settings.push(("credentials", endpoint.secret_origin()));
            let host = endpoint.host();
            let outcome = if host.capabilities.pull || host.capabilities.resolve {
                match self.resolve_at(endpoint, wanted).await {
                    Ok(Resolved::Digest(digest)) => Ok(digest),
                    Ok(Resolved::Document(document)) => Ok(document.digest),
                    Err(error) => Err(Chain(&error).to_string()),
                }
            } else {
                Err("it is only pushed to".to_owned())
            };
            let (address, exchanges) = (endpoint.address(), trace.take());
            hops.push(Hop { address, settings, exchanges, outcome });
        }
        hops
    }
}

/// What the operator set, or left to the defaults.
fn settings_of(host: &Host) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    let role = match host.role {
        HostRole::Mirror => "mirror",
        HostRole::Registry => "the registry itself",
    };
    settings.push(("role", role.to_owned()));
    let can = host.capabilities;
    let words = [(can.pull, "pull"), (can.resolve, "resolve"), (can.push, "push")];
    let words: Vec<_> = words.into_iter().filter_map(|(can, word)| can.then_some(word)).collect();
    settings.push(("capabilities", words.join(", ")));
    if host.scheme != Scheme::Http {
        let files = host.tls.ca.iter().map(|path| path.display().to_string());
        let trusted: Vec<_> = std::iter::once("the system's".to_owned()).chain(files).collect();
        let trust = if host.tls.skip_verify == Some(true) {
            "not verified".to_owned()
        } else {
            trusted.join(", ")
        };
        settings.push(("CA", trust));
    }
    for (certificate, _key) in &host.tls.client {
        settings.push(("client certificate", certificate.display().to_string()));
    }
    if let Some(proxy) = &host.proxy {
        let authority = proxy.host_str().unwrap_or_default();
        let port = proxy.port().map(|port| format!(":{port}")).unwrap_or_default();
        settings.push(("proxy", format!("{}://{authority}{port}", proxy.scheme())));
    }
    if !host.header.is_empty() {
        let names: Vec<_> = host.header.keys().map(ToString::to_string).collect();
        settings.push(("headers", names.join(", ")));
    }
    settings
}
