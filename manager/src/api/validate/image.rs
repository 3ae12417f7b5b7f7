//! References to images, as registries and Docker have them: `[host[:port]/]path[:tag][@digest]`.

use crate::error::Error;

/// Of host and path together, as Docker has it.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;
/// Hexadecimal digits of the shortest digest.
const SHORTEST_DIGEST: usize = 32;

pub fn check(field: &str, reference: &str) -> Result<(), Error> {
    let wrong = wrong_part(reference);
    wrong.map_or(Ok(()), |remedy| Err(Error::invalid(field, reference, remedy)))
}

/// What to do about a reference; none if it is fine.
fn wrong_part(reference: &str) -> Option<&'static str> {
    if reference.is_empty() {
        return Some("an image is needed, such as nginx:1.27");
    }
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    // A colon before the last slash belongs to the port of the host.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if name.len() > LONGEST_NAME {
        return Some("the name has more than 255 characters");
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some("the digest must look like sha256:<64 hexadecimal digits>");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some("the tag must be letters, digits and _ . - and not start with . or -");
    }
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host_like(host) => (Some(host), path),
        _ => (None, name),
    };
    if host.is_some_and(|host| !is_host(host)) {
        return Some("the registry must be a host name or address with an optional port");
    }
    if !path.split('/').all(is_path_component) {
        return Some("the repository must be lower-case letters and digits, with . _ - between them, and /");
    }
    None
}

/// As Docker decides whether the first part is a registry or part of the repository.
fn is_host_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn is_host(host: &str) -> bool {
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (host, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_address = bracketed.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    let is_label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (is_address || host.split('.').all(is_label)) && port.is_none_or(is_port)
}

fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let marks: Vec<_> = component.split(alphanumeric).filter(|mark| !mark.is_empty()).collect();
    let separated =
        marks.iter().all(|mark| matches!(*mark, "." | "_" | "__") || mark.chars().all(|c| c == '-'));
    component.starts_with(alphanumeric) && component.ends_with(alphanumeric) && separated
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= LONGEST_TAG && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, digits)) = digest.split_once(':') else { return false };
    let is_algorithm = algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "+._-".contains(c));
    let long_enough =
        if algorithm == "sha256" { digits.len() == 64 } else { digits.len() >= SHORTEST_DIGEST };
    is_algorithm && long_enough && digits.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_pulls_is_accepted() {
        let digest = format!("nginx@sha256:{}", "a".repeat(64));
        for image in [
            "nginx",
            "nginx:1.27-alpine",
            "library/nginx",
            "localhost/web",
            "192.168.77.1:5000/team/web__x:V1",
            "registry.example.com:5000/a/b/c",
            "[fd00::1]:5000/web",
            "a.b-c_d",
            &digest,
            &format!("localhost:5000/web:1@sha256:{}", "0".repeat(64)),
        ] {
            assert_eq!(wrong_part(image), None, "{image}");
        }
    }

    #[test]
    fn what_no_registry_has_is_refused() {
        for image in [
            "",
            "Nginx",
            "nginx:",
            "nginx:-x",
            "nginx@sha256:abc",
            "nginx:a b",
            "/nginx",
            "nginx/",
            "a//b",
            "-a",
            "a___b",
            "http://host/web",
            "host.example:99999/web",
            "nginx\n",
            &"a".repeat(300),
        ] {
            assert!(wrong_part(image).is_some(), "{image}");
        }
    }
}
