//! The memory that the requests of a thread are made in, one after the other: the processor's caches have it from the
//! request before, where memory of its own would have to be fetched for each.

use std::cell::Cell;
use std::mem;

use bytes::Bytes;

/// The largest memory that is kept for the next request, in bytes.
const KEPT: usize = 256 * 1_024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Memory with room for so many bytes, and nothing in it.
pub fn take(room: usize) -> Vec<u8> {
    let mut memory = SPARE.take();
    memory.clear();
    memory.reserve(room);
    memory
}

/// What was written to the memory, which goes to the next request once this one is written.
pub fn lend(memory: Vec<u8>) -> Bytes {
    Bytes::from_owner(Lent(memory))
}

struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.0.capacity() <= KEPT {
            let memory = mem::take(&mut self.0);
            // A thread that ends needs none.
            let _ = SPARE.try_with(|spare| spare.set(memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_from_one_request_to_the_next_unless_it_is_large() {
        let mut first = take(1_000);
        first.extend_from_slice(b"the first");
        let place = first.as_ptr();
        let first = lend(first);
        let meanwhile = take(10);
        assert_ne!(meanwhile.as_ptr(), place, "it is still in use");
        assert_eq!(&first[..], b"the first");
        drop((meanwhile, first));
        let second = take(10);
        assert_eq!((second.as_ptr(), second.len()), (place, 0));
        drop(lend(take(KEPT + 1)));
        assert_eq!(take(0).capacity(), 0, "kept, though it is large");
    }
}
