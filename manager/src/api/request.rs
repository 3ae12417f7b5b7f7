//! What tells one request from another, so that one that is sent again is done once.
//!
//! The object that a request creates is named by the request's id, and so is the proposal that creates it: who finds
//! the object has been here before, and where it was removed meanwhile the state machine remembers the proposal.

use proto::consistency::REQUEST_ID;
use tonic::{Request, Status};

use crate::error::Error;

/// Of a client that sent none, this call alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub u128);

impl RequestId {
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let Some(given) = request.metadata().get(REQUEST_ID) else { return Ok(Self(rand::random())) };
        let digits = given.to_str().unwrap_or_default();
        let is_well_formed = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = u128::from_str_radix(digits, 16).ok().filter(|_| is_well_formed);
        let malformed = || Error::invalid(REQUEST_ID, digits, "32 hexadecimal digits are needed");
        Ok(Self(id.ok_or_else(malformed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_digits_or_drawn() {
        let with = |id: &str| {
            let mut request = Request::new(());
            request.metadata_mut().insert(REQUEST_ID, id.parse().unwrap());
            RequestId::of(&request).map_err(|status| status.message().to_owned())
        };
        assert_eq!(with("000000000000000000000000000000fF"), Ok(RequestId(255)));
        for wrong in ["", "ff", "+00000000000000000000000000000ff", "0000000000000000000000000000000ff"] {
            assert!(with(wrong).unwrap_err().contains("32 hexadecimal digits"), "{wrong}");
        }
        let drawn = RequestId::of(&Request::new(())).unwrap();
        assert_ne!(drawn, RequestId::of(&Request::new(())).unwrap());
    }
}
