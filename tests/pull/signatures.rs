//! Images that must be signed: which signatures will do, and what is said of the others.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop::transfer::{Config, PullError, PullFailure, TrustConfig};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::image::{Layer, OCI_INDEX, OCI_MANIFEST, index, serve};
use crate::registry::{Fault, Registry};
use crate::{Node, chain, config};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

/// A registry with an image, a signer, and a policy.
struct Signed {
    registry: Registry,
    layer: Layer,
    /// The image's manifest.
    digest: String,
    name: String,
    signer: KeyPair,
    files: TempDir,
}

/// A signature's layer.
struct Signature<'a> {
    key: &'a KeyPair,
    digest: &'a str,
    reference: &'a str,
    claim: &'a str,
}

impl Signed {
    async fn new() -> Self {
        let registry = Registry::start().await;
        let layer = Layer::noise("file", 1000);
        let manifest = serve(&registry, Some("v1"), std::slice::from_ref(&layer));
        let digest = manifest["digest"].as_str().unwrap().to_owned();
        let name = format!("{}/team/app:v1", registry.authority());
        let signer = KeyPair::generate().unwrap();
        Self { registry, layer, digest, name, signer, files: tempfile::tempdir().unwrap() }
    }

    fn signature(&self) -> Signature<'_> {
        let claim = "cosign container image signature";
        Signature { key: &self.signer, digest: &self.digest, reference: &self.name, claim }
    }

    fn key(&self, key: &KeyPair) -> String {
        STANDARD.encode(key.public_key_pem())
    }

    fn policy(&self, requirements: &Value) -> PathBuf {
        let path = self.files.path().join("policy.json");
        let scope = self.name.trim_end_matches("/app:v1");
        let policy = json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {scope: requirements}},
        });
        std::fs::write(&path, policy.to_string()).unwrap();
        path
    }

    fn node(&self, requirements: &Value) -> Node {
        let signature_policy = Some(self.policy(requirements));
        let trust = TrustConfig { signature_policy, ..TrustConfig::default() };
        Node::with(Config { trust, ..config() })
    }

    /// The policy that asks for the signer.
    fn demanding(&self) -> Node {
        self.node(&json!([{"type": "sigstoreSigned", "keyData": self.key(&self.signer)}]))
    }

    /// The error of a pull that is refused, checked to have fetched no layer.
    async fn refused(&self, node: &Node) -> String {
        let error = self.failed(node).await;
        assert_eq!(error.failure(), PullFailure::Unsigned, "{}", chain(&error));
        chain(&error)
    }

    async fn failed(&self, node: &Node) -> PullError {
        let error = node.fail(&self.name).await;
        assert_eq!(self.registry.count(&self.layer.digest()), 0);
        error
    }

    /// The manifest of these signatures.
    fn document(&self, signatures: &[Signature<'_>]) -> String {
        let layers: Vec<Value> = signatures.iter().map(|it| it.put(&self.registry)).collect();
        let config = self.registry.put_blob("application/vnd.oci.image.config.v1+json", b"{}");
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
            "artifactType": ARTIFACT,
        })
        .to_string()
    }

    fn tag(&self, digest: &str, signatures: &[Signature<'_>]) {
        let tag = format!("{}.sig", digest.replace(':', "-"));
        let document = self.document(signatures);
        self.registry.put_manifest(Some(&tag), OCI_MANIFEST, document.as_bytes());
    }
}

impl Signature<'_> {
    fn put(&self, registry: &Registry) -> Value {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": self.reference},
                "image": {"docker-manifest-digest": self.digest},
                "type": self.claim,
            },
            "optional": {"creator": "a test"},
        })
        .to_string();
        let mut layer = registry.put_blob(PAYLOAD, payload.as_bytes());
        let signature = STANDARD.encode(self.key.sign(payload.as_bytes()).unwrap());
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        layer
    }
}

#[tokio::test]
async fn root_keys_of_every_kind_vouch_for_an_image() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let mut signed = Signed::new().await;
        signed.signer = KeyPair::generate_for(algorithm).unwrap();
        let node = signed.demanding();
        let said = signed.refused(&node).await;
        assert!(said.contains("there is no signature of sha256:"), "{said}");
        // The good one among others is enough.
        let stranger = KeyPair::generate().unwrap();
        let other = Signature { key: &stranger, ..signed.signature() };
        signed.tag(&signed.digest, &[other, signed.signature()]);
        signed.demanding().pull(&signed.name).await.unwrap();
    }
}

#[tokio::test]
async fn signatures_that_will_not_do() {
    let signed = Signed::new().await;
    let stranger = KeyPair::generate().unwrap();
    let (elsewhere, bare) = ("r.example/other:v1", signed.name.trim_end_matches(":v1"));
    let other_digest = format!("sha256:{}", "0".repeat(64));
    for (signature, reason) in [
        (Signature { key: &stranger, ..signed.signature() }, "it is not by a key of the policy"),
        (Signature { reference: elsewhere, ..signed.signature() }, "it is signed as \"r.example"),
        (Signature { reference: bare, ..signed.signature() }, "it is signed as"),
        (Signature { digest: &other_digest, ..signed.signature() }, "a signature of sha256:000"),
        (
            Signature { claim: "atomic container signature", ..signed.signature() },
            "it is a \"atomic",
        ),
    ] {
        signed.tag(&signed.digest, &[signature]);
        let said = signed.refused(&signed.demanding()).await;
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test]
async fn a_payload_that_was_changed_is_not_signed() {
    let signed = Signed::new().await;
    let mut layer = signed.signature().put(&signed.registry);
    let payload = Signature { reference: "r.example/x:1", ..signed.signature() };
    let other = payload.put(&signed.registry);
    layer["digest"] = other["digest"].clone();
    layer["size"] = other["size"].clone();
    let tag = format!("{}.sig", signed.digest.replace(':', "-"));
    let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [layer]});
    signed.registry.put_manifest(Some(&tag), OCI_MANIFEST, document.to_string().as_bytes());
    let said = signed.refused(&signed.demanding()).await;
    assert!(said.contains("it is not by a key of the policy"), "{said}");
}

#[tokio::test]
async fn root_what_cosign_signs_names_the_repository_alone() {
    let signed = Signed::new().await;
    let bare = signed.name.trim_end_matches(":v1");
    signed.tag(&signed.digest, &[Signature { reference: bare, ..signed.signature() }]);
    let node = signed.node(&json!([{
        "type": "sigstoreSigned",
        "keyDatas": [signed.key(&KeyPair::generate().unwrap()), signed.key(&signed.signer)],
        "signedIdentity": {"type": "matchRepository"},
    }]));
    node.pull(&signed.name).await.unwrap();
}

#[tokio::test]
async fn root_a_signature_of_the_index_vouches_for_the_image_in_it() {
    let signed = Signed::new().await;
    let manifest = serve(&signed.registry, None, std::slice::from_ref(&signed.layer));
    let platform = format!("linux/{}", crate::image::architecture());
    let document = index(OCI_INDEX, &[(manifest, &platform)]).to_string();
    let target = signed.registry.put_manifest(Some("v1"), OCI_INDEX, document.as_bytes());
    signed.refused(&signed.demanding()).await;
    let digest = target["digest"].as_str().unwrap();
    signed.tag(digest, &[Signature { digest, ..signed.signature() }]);
    signed.demanding().pull(&signed.name).await.unwrap();
}

#[tokio::test]
async fn root_signatures_are_found_among_referrers_too() {
    // Where the registry lists them, and where a tag does.
    for listed in
        [|digest: &str| format!("referrers/{digest}"), |digest: &str| digest.replace(':', "-")]
    {
        let signed = Signed::new().await;
        let document = signed.document(&[signed.signature()]);
        let mut entry = signed.registry.put_manifest(None, OCI_MANIFEST, document.as_bytes());
        let mut other = entry.clone();
        entry["artifactType"] = json!(ARTIFACT);
        other["artifactType"] = json!("application/vnd.example.sbom");
        let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other, entry]});
        let place = listed(&signed.digest);
        signed.registry.put_manifest(Some(&place), OCI_INDEX, list.to_string().as_bytes());
        signed.demanding().pull(&signed.name).await.unwrap();
    }
}

#[tokio::test]
async fn a_bundle_is_told_to_be_one() {
    let signed = Signed::new().await;
    let mut entry = signed.registry.put_manifest(None, OCI_MANIFEST, b"{}");
    entry["artifactType"] = json!("application/vnd.dev.sigstore.bundle.v0.3+json");
    let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
    let place = format!("referrers/{}", signed.digest);
    signed.registry.put_manifest(Some(&place), OCI_INDEX, list.to_string().as_bytes());
    let said = signed.refused(&signed.demanding()).await;
    assert!(said.contains("it is a sigstore bundle"), "{said}");
}

#[tokio::test]
async fn root_all_requirements_hold_and_a_registry_that_fails_is_no_consent() {
    let signed = Signed::new().await;
    signed.tag(&signed.digest, &[signed.signature()]);
    let demand = json!({"type": "sigstoreSigned", "keyData": signed.key(&signed.signer)});
    let second = json!({
        "type": "sigstoreSigned", "keyData": signed.key(&KeyPair::generate().unwrap()),
    });
    signed.refused(&signed.node(&json!([demand, second]))).await;
    let said = signed.refused(&signed.node(&json!([demand, {"type": "reject"}]))).await;
    assert!(said.contains("rejects"), "{said}");
    signed.registry.fault(".sig", usize::MAX, Fault::Status(503, Vec::new()));
    let error = signed.failed(&signed.demanding()).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable, "{}", chain(&error));
    let asked = signed.registry.count(".sig");
    let node = signed.node(&json!([{"type": "insecureAcceptAnything"}]));
    node.pull(&signed.name).await.unwrap();
    assert_eq!(signed.registry.count(".sig"), asked, "asked for what nobody demands");
    // Another registry is in no scope.
    let other = Signed::new().await;
    let error = node.pull(&other.name).await.unwrap_err();
    assert_eq!(error.failure(), PullFailure::Unsigned, "{}", chain(&error));
    std::fs::remove_file(signed.files.path().join("policy.json")).unwrap();
    let error = node.pull(&signed.name).await.unwrap_err();
    assert_eq!(error.failure(), PullFailure::Local, "{}", chain(&error));
}
