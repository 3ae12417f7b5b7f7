//! The messages of the CFSSL sign API, as far as a swarm needs them.
//!
//! <https://github.com/cloudflare/cfssl/blob/master/doc/api/endpoint_sign.txt>; which fields are set is SwarmKit's choice.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::certificate::{Subject, names_of, role_name};

/// Of the signer's configuration: with it, a CA is signed (SwarmKit's `ExternalCrossSignProfile`).
const ROOT_PROFILE: &str = "CA";
/// Basic constraints (RFC 5280, section 4.2.1.9): a CA, in hexadecimal. Signers ignore those in the request.
const CA: Extension<'static> = Extension { id: "2.5.29.19", critical: true, value: "30030101ff" };
/// Of a signer's own words.
const LONGEST_REASON: usize = 300;

#[derive(Debug, Serialize)]
pub(super) struct Order {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
    certificate_request: String,
    subject: Name,
    #[serde(skip_serializing_if = "str::is_empty")]
    profile: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extensions: Vec<Extension<'static>>,
}

#[derive(Debug, Serialize)]
struct Name {
    #[serde(rename = "CN")]
    common_name: String,
    names: Vec<Attributes>,
}

#[derive(Debug, Default, Serialize)]
struct Attributes {
    #[serde(rename = "C", skip_serializing_if = "String::is_empty")]
    country: String,
    #[serde(rename = "ST", skip_serializing_if = "String::is_empty")]
    state: String,
    #[serde(rename = "L", skip_serializing_if = "String::is_empty")]
    locality: String,
    #[serde(rename = "O", skip_serializing_if = "String::is_empty")]
    organization: String,
    #[serde(rename = "OU", skip_serializing_if = "String::is_empty")]
    unit: String,
}

#[derive(Clone, Debug, Serialize)]
struct Extension<'a> {
    id: &'a str,
    critical: bool,
    value: &'a str,
}

impl Order {
    pub(super) fn node(request: &str, subject: &Subject) -> Self {
        let attributes = Attributes {
            organization: subject.cluster.to_string(),
            unit: role_name(subject.role).into(),
            ..Attributes::default()
        };
        Self {
            hosts: names_of(subject).map(str::to_owned).collect(),
            certificate_request: request.into(),
            subject: Name { common_name: subject.node.to_string(), names: vec![attributes] },
            profile: "",
            extensions: Vec::new(),
        }
    }

    /// None if `root` is no certificate.
    pub(super) fn root(request: &str, root: &CertificateDer<'_>) -> Option<Self> {
        let (_, root) = x509_parser::parse_x509_certificate(root).ok()?;
        Some(Self {
            hosts: Vec::new(),
            certificate_request: request.into(),
            subject: Name::of(root.subject()),
            profile: ROOT_PROFILE,
            extensions: vec![CA],
        })
    }
}

impl Name {
    fn of(name: &X509Name<'_>) -> Self {
        let text = |found: Option<&AttributeTypeAndValue<'_>>| {
            found.and_then(|found| found.as_str().ok()).unwrap_or_default().to_owned()
        };
        let attributes = Attributes {
            country: text(name.iter_country().next()),
            state: text(name.iter_state_or_province().next()),
            locality: text(name.iter_locality().next()),
            organization: text(name.iter_organization().next()),
            unit: text(name.iter_organizational_unit().next()),
        };
        Self { common_name: text(name.iter_common_name().next()), names: vec![attributes] }
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    success: bool,
    result: Option<Signed>,
    errors: Option<Vec<Complaint>>,
}

#[derive(Debug, Deserialize)]
struct Signed {
    certificate: String,
}

#[derive(Debug, Deserialize)]
struct Complaint {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

pub(super) enum Outcome {
    /// PEM.
    Certificate(String),
    Refused(String),
}

pub(super) fn read(answer: &[u8]) -> Result<Outcome, serde_json::Error> {
    let Answer { success, result, errors } = serde_json::from_slice(answer)?;
    if let (true, Some(signed)) = (success, result) {
        return Ok(Outcome::Certificate(signed.certificate));
    }
    let complaints = errors.unwrap_or_default();
    let complaints = complaints.iter().map(|Complaint { code, message }| format!("{message} (code {code})"));
    let reason = complaints.collect::<Vec<_>>().join(", ");
    Ok(Outcome::Refused(if reason.is_empty() { "it gave no reason".into() } else { legible(&reason) }))
}

/// What a signer says goes to terminals and logs: in one line, without what steers them.
pub(super) fn legible(said: &str) -> String {
    let clean = said.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(LONGEST_REASON).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proto::model::Role;
    use serde_json::json;

    use super::*;
    use crate::RootCa;

    #[test]
    fn requests_are_swarmkits() {
        let subject = Subject { node: "n1".into(), role: Role::Manager, cluster: "c1".into() };
        assert_eq!(
            serde_json::to_value(Order::node("PEM", &subject)).unwrap(),
            json!({
                "hosts": ["swarm-manager", "n1", "swarm-ca"],
                "certificate_request": "PEM",
                "subject": {"CN": "n1", "names": [{"O": "c1", "OU": "swarm-manager"}]},
            })
        );
        let root = RootCa::generate(std::time::SystemTime::now()).unwrap();
        assert_eq!(
            serde_json::to_value(Order::root("PEM", &root.signing_certificate())).unwrap(),
            json!({
                "certificate_request": "PEM",
                "subject": {"CN": "swarm-ca", "names": [{}]},
                "profile": "CA",
                "extensions": [{"id": "2.5.29.19", "critical": true, "value": "30030101ff"}],
            })
        );
    }

    #[test]
    fn an_answer_is_a_certificate_or_a_reason() {
        let refusal = |answer: &str| match read(answer.as_bytes()).unwrap() {
            Outcome::Refused(reason) => reason,
            Outcome::Certificate(certificate) => panic!("{certificate}"),
        };
        let good = r#"{"success":true,"result":{"certificate":"PEM"},"errors":[],"messages":[]}"#;
        assert!(matches!(read(good.as_bytes()).unwrap(), Outcome::Certificate(pem) if pem == "PEM"));
        let bad = r#"{"success":false,"result":null,"errors":[{"code":5,"message":"not\n\u001b[1mhere"}]}"#;
        assert_eq!(refusal(bad), "not  [1mhere (code 5)");
        assert_eq!(refusal(r#"{"success":true}"#), "it gave no reason");
        for rubbish in ["", "[]", "{\"success\":true,\"result\":{\"certificate\":7}}"] {
            assert!(read(rubbish.as_bytes()).is_err());
        }
    }
}
