//! Why a message was refused.

use std::fmt::Display;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{field} is missing")]
    Missing { field: String },
    #[error("{field} has the value {value:?}, expected {expected}")]
    Invalid { field: String, value: String, expected: &'static str },
    #[error("{field}: {what} are not supported by this version")]
    Unsupported { field: String, what: &'static str },
}

impl Error {
    pub fn missing(field: impl Into<String>) -> Self {
        Self::Missing { field: field.into() }
    }

    pub fn invalid(field: impl Into<String>, value: impl Display, expected: &'static str) -> Self {
        Self::Invalid { field: field.into(), value: value.to_string(), expected }
    }

    pub fn unsupported(field: impl Into<String>, what: &'static str) -> Self {
        Self::Unsupported { field: field.into(), what }
    }

    /// The path of the offending field, outermost first.
    pub fn field(&self) -> &str {
        match self {
            Self::Missing { field } | Self::Invalid { field, .. } | Self::Unsupported { field, .. } => field,
        }
    }

    fn within(mut self, outer: &str) -> Self {
        match &mut self {
            Self::Missing { field } | Self::Invalid { field, .. } | Self::Unsupported { field, .. } => {
                let inner = if field.is_empty() { String::new() } else { format!(".{field}") };
                *field = format!("{outer}{inner}");
            }
        }
        self
    }
}

/// Adds the name of the enclosing field to an error's path.
pub trait Within {
    fn within(self, outer: &str) -> Self;
}

impl<T> Within for Result<T, Error> {
    fn within(self, outer: &str) -> Self {
        self.map_err(|error| error.within(outer))
    }
}
