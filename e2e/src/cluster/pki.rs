//! The cluster's certificates, and the configuration of each client.

use std::fs;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::{ADDRESS, Cluster, NODE};

/// Who gets a certificate as client: file name, common name, organisation.
const CLIENTS: [(&str, &str, &str); 4] = [
    ("admin", "kubernetes-admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", "system:kube-controller-manager"),
    ("scheduler", "system:kube-scheduler", "system:kube-scheduler"),
    ("kubelet", "system:node:orlop-node", "system:nodes"),
];

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Writes authority, serving certificates, client certificates and kubeconfig files.
pub(super) fn write(cluster: &Cluster) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "orlop cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(cluster.path("pki/ca.crt"), authority.pem())?;
    // What signs the tokens of service accounts.
    let accounts = KeyPair::generate()?;
    fs::write(cluster.path("pki/accounts.key"), accounts.serialize_pem())?;
    fs::write(cluster.path("pki/accounts.pub"), accounts.public_key_pem())?;

    let names = ["127.0.0.1", ADDRESS, "10.213.252.1", "localhost", "kubernetes.default.svc", NODE];
    for server in ["apiserver", "kubelet-server"] {
        let params = CertificateParams::new(names.map(str::to_owned))?;
        sign(cluster, &authority, server, params, ExtendedKeyUsagePurpose::ServerAuth)?;
    }
    for (name, common, organisation) in CLIENTS {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        sign(cluster, &authority, name, params, ExtendedKeyUsagePurpose::ClientAuth)?;
        write_kubeconfig(cluster, name)?;
    }
    Ok(())
}

fn sign(
    cluster: &Cluster,
    authority: &Authority,
    name: &str,
    mut params: CertificateParams,
    usage: ExtendedKeyUsagePurpose,
) -> Result<()> {
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    fs::write(cluster.path(&format!("pki/{name}.crt")), certificate.pem())?;
    fs::write(cluster.path(&format!("pki/{name}.key")), key.serialize_pem())?;
    Ok(())
}

fn write_kubeconfig(cluster: &Cluster, name: &str) -> Result<()> {
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "orlop",
        "clusters": [{ "name": "orlop", "cluster": {
            "server": "https://127.0.0.1:6443", "certificate-authority": cluster.path("pki/ca.crt") } }],
        "users": [{ "name": name, "user": {
            "client-certificate": cluster.path(&format!("pki/{name}.crt")),
            "client-key": cluster.path(&format!("pki/{name}.key")) } }],
        "contexts": [{ "name": "orlop", "context": { "cluster": "orlop", "user": name } }],
    });
    fs::write(cluster.path(&format!("pki/{name}.conf")), serde_json::to_vec_pretty(&text)?)?;
    Ok(())
}
