//! Names and labels.

use proto::model::Annotations;

use crate::api::limits;
use crate::error::Error;

/// Of a DNS label (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 63;

/// Services are found by name in DNS, so their names are made like labels.
pub fn service_name(field: &str, name: &str) -> Result<(), Error> {
    check(field, name, "-_")
}

pub fn object_name(field: &str, name: &str) -> Result<(), Error> {
    check(field, name, "-_.")
}

fn check(field: &str, name: &str, inside: &str) -> Result<(), Error> {
    let invalid = |remedy: String| Err(Error::invalid(field, name, remedy));
    if name.is_empty() {
        return invalid("a name is needed".into());
    }
    if name.len() > LONGEST_NAME {
        return invalid(format!("at most {LONGEST_NAME} characters are allowed"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || inside.contains(c);
    let ends_fit = !name.starts_with(|c| inside.contains(c)) && !name.ends_with(|c| inside.contains(c));
    if name.chars().all(fits) && ends_fit {
        return Ok(());
    }
    let inside: Vec<_> = inside.chars().map(String::from).collect();
    invalid(format!("only letters, digits and, between them, {} are allowed", inside.join(" ")))
}

pub fn labels(field: &str, annotations: &Annotations) -> Result<(), Error> {
    let field = format!("{field}.labels");
    if annotations.labels.contains_key("") {
        return Err(Error::invalid(field, "", "a label needs a name"));
    }
    limits::map(&field, &annotations.labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_and_digits_with_marks_between() {
        for name in ["a", "my-web", "My_Web2", &"x".repeat(63)] {
            service_name("name", name).unwrap();
        }
        object_name("name", "net.v1").unwrap();
        for name in ["", "-a", "a-", "a b", "a.b", "ä", "a/b", "a\n", &"x".repeat(64)] {
            service_name("name", name).unwrap_err();
        }
        for name in ["", ".a", "a.", "a/b", &"x".repeat(64)] {
            object_name("name", name).unwrap_err();
        }
    }

    #[test]
    fn the_refusal_says_what_is_allowed() {
        assert_eq!(
            service_name("name", "a b").unwrap_err().to_string(),
            "name has the value \"a b\": only letters, digits and, between them, - _ are allowed",
        );
    }
}
