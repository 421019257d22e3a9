//! `orlop.admin.v1.Registries`: how a registry is reached, host by host.

use tonic::{Request, Response, Status};

use crate::images::{Images, SessionError};

use super::refusal::Refused;
use super::transfers::read_registry;
use super::v1;
use super::v1::registries_server::{Registries as Api, RegistriesServer};

/// The API on top of `images`, to be served.
#[must_use]
pub fn registries(images: Images) -> RegistriesServer<impl Api> {
    RegistriesServer::new(RegistryApi { images })
}

#[derive(Debug)]
struct RegistryApi {
    images: Images,
}

#[tonic::async_trait]
impl Api for RegistryApi {
    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let (reference, credentials) =
            read_registry(&request.into_inner().image.unwrap_or_default())?;
        let explained = self.images.explain(&reference, credentials.as_ref()).await;
        let explained = explained.map_err(|error| error.refusal())?;
        let hops = explained.hops.into_iter().map(|hop| {
            let settings = hop.settings.into_iter();
            let settings =
                settings.map(|(name, value)| v1::Setting { name: name.to_owned(), value });
            let (digest, error) = match hop.outcome {
                Ok(digest) => (digest.to_string(), String::new()),
                Err(why) => (String::new(), why),
            };
            v1::Hop {
                address: hop.address,
                settings: settings.collect(),
                exchanges: hop.exchanges,
                digest,
                error,
            }
        });
        Ok(Response::new(v1::ExplainResponse {
            reference: reference.to_string(),
            file: explained.file.map(|file| file.display().to_string()).unwrap_or_default(),
            hops: hops.collect(),
        }))
    }
}

impl Refused for SessionError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Hosts { .. } => tonic::Code::FailedPrecondition,
            Self::Task(_) => tonic::Code::Internal,
        }
    }
}
