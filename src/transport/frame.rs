//! The bytes of a frame's header, and nothing else.

use super::{Part, TransportError, check_len};

/// Length of [`Header`] on the wire.
pub(super) const HEADER_BYTES: usize = 8;

/// What stands before each frame: the two lengths, u32 little-endian each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) body_len: usize,
    pub(super) payload_len: usize,
}

impl Header {
    /// Returns the header of parts with these lengths, refused where they break a limit.
    pub(super) fn new(body_len: usize, payload_len: usize) -> Result<Self, TransportError> {
        check_len(Part::Body, body_len as u64)?;
        check_len(Part::Payload, payload_len as u64)?;
        Ok(Self {
            body_len,
            payload_len,
        })
    }

    /// Returns the bytes of this header.
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        // Both lengths were checked against limits far below 4 GiB.
        let packed = ((self.payload_len as u64) << 32) | self.body_len as u64;
        packed.to_le_bytes()
    }

    /// Reads a header and checks its lengths, before anything is allocated for them.
    pub(super) fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, TransportError> {
        let packed = u64::from_le_bytes(bytes);
        let (body_len, payload_len) = (packed & u64::from(u32::MAX), packed >> 32);
        check_len(Part::Body, body_len)?;
        check_len(Part::Payload, payload_len)?;
        Self::new(body_len as usize, payload_len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::{MESSAGE_BODY_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES};

    #[test]
    fn headers_round_trip_up_to_the_limits() {
        for body_len in [0, 1, 255, 256, MESSAGE_BODY_MAX_BYTES] {
            for payload_len in [0, 1, 65_536, MESSAGE_PAYLOAD_MAX_BYTES] {
                let header = Header::new(body_len, payload_len).unwrap();
                assert_eq!(Header::decode(header.encode()).unwrap(), header);
            }
        }
    }

    #[test]
    fn lengths_over_the_limits_are_refused_on_both_sides() {
        assert!(Header::new(MESSAGE_BODY_MAX_BYTES + 1, 0).is_err());
        assert!(Header::new(0, MESSAGE_PAYLOAD_MAX_BYTES + 1).is_err());
        for bytes in [
            [0xff; 8],
            [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        ] {
            assert!(matches!(
                Header::decode(bytes),
                Err(TransportError::TooLarge { .. })
            ));
        }
    }

    #[test]
    fn the_worked_example_of_the_wire_document_holds() {
        let header = Header::new(3, 256).unwrap();
        assert_eq!(header.encode(), [3, 0, 0, 0, 0, 1, 0, 0]);
    }
}
