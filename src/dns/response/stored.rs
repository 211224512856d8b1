//! The parts of a response, kept in one allocation: a hit reads few cache lines, a miss allocates once.

/// The parts, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// All octets.
    bytes: Box<[u8]>,
    /// Where each part ends but the last, which ends with the octets.
    ends: [u32; 4],
}

/// The parts as they are put together.
pub(super) struct Parts<'a> {
    /// The whole message; its spare capacity is used.
    pub(super) message: Vec<u8>,
    /// Where the TTL fields are in it.
    pub(super) ttl_offsets: &'a [u16],
    /// EDE options, encoded one after the other.
    pub(super) ede_options: &'a [u8],
    /// Targets of the CNAME chain, as wire names one after the other.
    pub(super) targets: &'a [u8],
    /// Target names of SVCB and HTTPS records, in the same form.
    pub(super) service_targets: &'a [u8],
}

impl Parts<'_> {
    /// Returns how many octets they take behind the message.
    pub(super) fn room(&self) -> usize {
        size_of_val(self.ttl_offsets) + self.ede_options.len() + self.targets.len() + self.service_targets.len()
    }
}

impl Stored {
    /// Puts the parts together.
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let room = parts.room();
        let Parts { message: mut bytes, ttl_offsets, ede_options, targets, service_targets } = parts;
        bytes.reserve_exact(room);
        let message_end = end(&bytes);
        for offset in ttl_offsets {
            bytes.extend_from_slice(&offset.to_ne_bytes());
        }
        let offsets_end = end(&bytes);
        let [edes_end, targets_end] = [ede_options, targets].map(|part| {
            bytes.extend_from_slice(part);
            end(&bytes)
        });
        bytes.extend_from_slice(service_targets);
        Self { bytes: bytes.into(), ends: [message_end, offsets_end, edes_end, targets_end] }
    }

    /// Returns the message.
    pub(super) fn message(&self) -> &[u8] {
        self.part(0, self.ends[0])
    }

    /// Lets `change` change each TTL.
    pub(super) fn change_ttls(&mut self, change: impl Fn(u32) -> u32) {
        let (message, behind) = self.bytes.split_at_mut(index(self.ends[0]));
        let (offsets, _) = behind[..index(self.ends[1] - self.ends[0])].as_chunks();
        for offset in offsets {
            let ttl = message.get_mut(usize::from(u16::from_ne_bytes(*offset))..).and_then(<[u8]>::first_chunk_mut);
            if let Some(ttl) = ttl {
                *ttl = change(u32::from_be_bytes(*ttl)).to_be_bytes();
            }
        }
    }

    /// Returns where the TTL fields are in the message.
    pub(super) fn ttl_offsets(&self) -> impl ExactSizeIterator<Item = u16> + Clone + '_ {
        self.raw_ttl_offsets().iter().map(|pair| u16::from_ne_bytes(*pair))
    }

    /// Returns the same as they are kept: numbers in the machine's order.
    pub(super) fn raw_ttl_offsets(&self) -> &[[u8; 2]] {
        self.part(self.ends[0], self.ends[1]).as_chunks().0
    }

    /// Returns the EDE options.
    pub(super) fn ede_options(&self) -> &[u8] {
        self.part(self.ends[1], self.ends[2])
    }

    /// Returns the targets of the CNAME chain.
    pub(super) fn targets(&self) -> &[u8] {
        self.part(self.ends[2], self.ends[3])
    }

    /// Returns the target names of SVCB and HTTPS records.
    pub(super) fn service_targets(&self) -> &[u8] {
        &self.bytes[index(self.ends[3])..]
    }

    /// Returns how many octets it takes on the heap.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the octets between two ends.
    fn part(&self, start: u32, end: u32) -> &[u8] {
        &self.bytes[index(start)..index(end)]
    }
}

/// Returns where what was written so far ends: a message of 64 KiB at most, and parts of it.
fn end(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Returns an end as slices take it.
fn index(end: u32) -> usize {
    usize::try_from(end).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_out_as_they_went_in() {
        const PARTS: &[[&[u8]; 3]] = &[[b"", b"", b""], [b"e", b"", b"s"], [b"", b"tt", b""], [b"eee", b"t", b"ss"]];
        for [ede_options, targets, service_targets] in PARTS {
            for ttl_offsets in [&[][..], &[12], &[12, 300, 65_535]] {
                let message = b"message".to_vec();
                let stored = Stored::new(Parts { message, ttl_offsets, ede_options, targets, service_targets });
                assert_eq!(stored.message(), b"message");
                assert_eq!(stored.ttl_offsets().collect::<Vec<_>>(), ttl_offsets);
                assert_eq!(
                    [stored.ede_options(), stored.targets(), stored.service_targets()],
                    [*ede_options, *targets, *service_targets]
                );
            }
        }
    }
}
