//! Names of images, made full as Docker makes them: `nginx` is `docker.io/library/nginx:latest`.

use oci_client::Reference;

use crate::runtime::Error;

#[derive(Debug, Clone)]
pub(crate) struct Name {
    reference: Reference,
}

impl Name {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Reference { reference: text.to_owned(), reason };
        if text.trim().is_empty() {
            return Err(invalid("it is empty".to_owned()));
        }
        let reference = text.parse().map_err(|error: oci_client::ParseError| invalid(error.to_string()))?;
        Ok(Self { reference })
    }

    /// The name under which containerd keeps the image. A digest says all, so a tag beside it does not count.
    pub(crate) fn full(&self) -> String {
        match self.reference.digest() {
            Some(digest) => format!("{}/{}@{digest}", self.registry(), self.repository()),
            None => self.reference.whole(),
        }
    }

    pub(super) fn digest(&self) -> Option<&str> {
        self.reference.digest()
    }

    pub(super) fn registry(&self) -> &str {
        self.reference.registry()
    }

    pub(super) fn repository(&self) -> &str {
        self.reference.repository()
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.reference
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_full() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (given, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1", "docker.io/library/nginx:1".to_owned()),
            ("me/app", "docker.io/me/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("10.0.0.1:5000/a/b:v1", "10.0.0.1:5000/a/b:v1".to_owned()),
            (&format!("nginx:1@{digest}"), format!("docker.io/library/nginx@{digest}")),
        ] {
            assert_eq!(Name::parse(given).unwrap().full(), full, "{given}");
        }
        for given in ["", " ", "UPPER", "a:b:c", "a@sha256:12", "-a", "a b"] {
            assert!(Name::parse(given).is_err(), "{given}");
        }
    }
}
